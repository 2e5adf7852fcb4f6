//! Applies `--preload`: which models are loaded at start.

use onnxd_engine::models::registry::ModelSource;
use onnxd_proto::exit::Failure;

/// Marks the models to load at start. `given` is the value of `--preload`.
///
/// # Errors
/// A name is not that of a model, or `all` or `none` is combined with other values.
pub(super) fn mark(
    models: Vec<ModelSource>,
    given: &[String],
) -> Result<Vec<ModelSource>, Failure> {
    let invalid = |reason: String| Failure::configuration(format!("--preload: {reason}"));
    let all = match given {
        [] => true,
        [one] if one == "all" => true,
        [one] if one == "none" => false,
        names => {
            for name in names {
                if name == "all" || name == "none" {
                    return Err(invalid(format!("`{name}` cannot be combined with other values")));
                }
                if !models.iter().any(|model| model.name.as_str() == name) {
                    let names = super::models::names(&models);
                    return Err(invalid(format!(
                        "no model is named {name:?}; the models are: {names}"
                    )));
                }
            }
            false
        }
    };
    let is_named = |model: &ModelSource| given.iter().any(|name| model.name.as_str() == name);
    let mark = |model: ModelSource| ModelSource { preload: all || is_named(&model), ..model };
    Ok(models.into_iter().map(mark).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preloaded(given: &[&str]) -> Result<Vec<bool>, String> {
        let model = |name: &str| ModelSource {
            name: name.parse().unwrap(),
            aliases: Vec::new(),
            uri: "/x".parse().unwrap(),
            preload: true,
            rules: Default::default(),
        };
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        mark(["a", "b"].map(model).into(), &given)
            .map(|models| models.iter().map(|model| model.preload).collect())
            .map_err(|failure| failure.message)
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
}
