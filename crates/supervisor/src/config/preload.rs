//! Applies `--preload` and `--require`: which models are loaded at start, and which of them must be.

use onnxd_engine::models::registry::ModelSource;
use onnxd_proto::exit::Failure;

use super::Problems;

/// Marks the models to load at start, and those without which the server does not start.
///
/// # Errors
/// A name is not that of a model, or `all` or `none` is combined with other values.
pub(super) fn mark(
    models: Vec<ModelSource>,
    preload: &[String],
    require: &[String],
) -> Result<Vec<ModelSource>, Failure> {
    let mut problems = Problems::default();
    let required = problems.keep(named(&models, "--require", &["all"], require));
    let preloaded = match preload {
        [] => Some(vec![true; models.len()]),
        names => problems.keep(named(&models, "--preload", &["all", "none"], names)),
    };
    problems.finish()?;
    // Without a problem, nothing is missing.
    let marks = preloaded.unwrap_or_default().into_iter().zip(required.unwrap_or_default());
    let mark = |(model, (preload, required)): (ModelSource, (bool, bool))| ModelSource {
        preload: preload || required,
        required,
        ..model
    };
    Ok(models.into_iter().zip(marks).map(mark).collect())
}

/// Returns for each model whether a flag names it. `words` are the words that stand for all or none.
fn named(
    models: &[ModelSource],
    flag: &str,
    words: &[&str],
    given: &[String],
) -> Result<Vec<bool>, Failure> {
    let invalid = |reason: String| Failure::configuration(format!("{flag}: {reason}"));
    if let [word] = given
        && words.contains(&word.as_str())
    {
        return Ok(vec![word == "all"; models.len()]);
    }
    let mut problems = Problems::default();
    for name in given {
        if words.contains(&name.as_str()) {
            return Err(invalid(format!("`{name}` cannot be combined with other values")));
        }
        if !models.iter().any(|model| model.is_named(name)) {
            let names = super::models::names(models);
            let reason = format!("no model is named {name:?}; the models are: {names}");
            problems.keep::<()>(Err(invalid(reason)));
        }
    }
    problems.finish()?;
    let is_named = |model: &ModelSource| given.iter().any(|name| model.is_named(name));
    Ok(models.iter().map(is_named).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the marks of models `a` and `b`.
    fn marked<T>(
        preload: &[&str],
        require: &[&str],
        mark_of: impl Fn(ModelSource) -> T,
    ) -> Result<Vec<T>, String> {
        let model = |name: &str| ModelSource {
            name: name.parse().unwrap(),
            aliases: Vec::new(),
            uri: "/x".parse().unwrap(),
            preload: true,
            required: false,
            rules: Default::default(),
        };
        let words = |given: &[&str]| given.iter().map(ToString::to_string).collect::<Vec<String>>();
        mark(["a", "b"].map(model).into(), &words(preload), &words(require))
            .map(|models| models.into_iter().map(mark_of).collect())
            .map_err(|failure| failure.message)
    }

    fn preloaded(given: &[&str]) -> Result<Vec<bool>, String> {
        marked(given, &[], |model| model.preload)
    }

    #[test]
    fn all_none_or_the_named_models_are_loaded_at_start() {
        assert_eq!(preloaded(&[]), Ok(vec![true, true]));
        assert_eq!(preloaded(&["all"]), Ok(vec![true, true]));
        assert_eq!(preloaded(&["none"]), Ok(vec![false, false]));
        assert_eq!(preloaded(&["b"]), Ok(vec![false, true]));
        assert_eq!(preloaded(&["a", "b"]), Ok(vec![true, true]));
    }

    #[test]
    fn unknown_name_is_refused_with_the_known_ones() {
        assert!(preloaded(&["a", "c"]).unwrap_err().contains("\"c\"; the models are: a, b"));
        assert!(preloaded(&["a", "none"]).unwrap_err().contains("cannot be combined"));
    }

    #[test]
    fn every_unknown_name_is_reported() {
        let message = marked(&["x", "a", "y"], &["z"], |_| ()).unwrap_err();
        let flags = ["--require: no model is named \"z\"", "--preload", "--preload"];
        for (line, flag) in message.lines().zip(flags) {
            assert!(line.starts_with(flag), "{message}");
        }
        assert_eq!(message.lines().count(), flags.len(), "{message}");
    }

    #[test]
    fn required_models_are_loaded_at_start() {
        let both = |model: ModelSource| (model.preload, model.required);
        let marks = |preload, require| marked(preload, require, both);
        assert_eq!(marks(&[], &[]), Ok(vec![(true, false); 2]));
        assert_eq!(marks(&["none"], &["b"]), Ok(vec![(false, false), (true, true)]));
        assert_eq!(marks(&[], &["all"]), Ok(vec![(true, true); 2]));
        assert!(marks(&[], &["c"]).unwrap_err().starts_with("--require: no model is named"));
        assert!(marks(&[], &["none"]).unwrap_err().contains("no model is named"));
    }
}
