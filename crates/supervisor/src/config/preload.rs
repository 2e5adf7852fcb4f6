//! `--preload`: which models are loaded at start.

use onnxd_engine::models::registry::ModelSource;
use onnxd_proto::exit::Failure;

/// Marks the models that are loaded at start; `given` is what `--preload` says.
///
/// # Errors
/// It names a model that is not served, or `all` or `none` together with others.
pub(super) fn mark(
    models: Vec<ModelSource>,
    given: &[String],
) -> Result<Vec<ModelSource>, Failure> {
    let wrong = |reason: String| Failure::configuration(format!("--preload: {reason}"));
    let all = match given {
        [] => true,
        [one] if one == "all" => true,
        [one] if one == "none" => false,
        names => {
            for name in names {
                if name == "all" || name == "none" {
                    return Err(wrong(format!("`{name}` stands alone or not at all")));
                }
                if !models.iter().any(|model| model.name.as_str() == name) {
                    let served: Vec<&str> = models.iter().map(|m| m.name.as_str()).collect();
                    let served = served.join(", ");
                    return Err(wrong(format!("no model is called `{name}`; there are: {served}")));
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
        };
        let given: Vec<String> = given.iter().map(ToString::to_string).collect();
        mark(["a", "b"].map(model).into(), &given)
            .map(|models| models.iter().map(|model| model.preload).collect())
            .map_err(|failure| failure.message)
    }

    #[test]
    fn all_none_or_those_that_are_named_are_loaded_at_start() {
        assert_eq!(preloaded(&[]), Ok(vec![true, true]));
        assert_eq!(preloaded(&["all"]), Ok(vec![true, true]));
        assert_eq!(preloaded(&["none"]), Ok(vec![false, false]));
        assert_eq!(preloaded(&["b"]), Ok(vec![false, true]));
        assert_eq!(preloaded(&["a", "b"]), Ok(vec![true, true]));
    }

    #[test]
    fn a_name_that_is_not_served_is_refused_with_those_that_are() {
        assert!(preloaded(&["a", "c"]).unwrap_err().contains("`c`; there are: a, b"));
        assert!(preloaded(&["a", "none"]).unwrap_err().contains("stands alone"));
    }
}
