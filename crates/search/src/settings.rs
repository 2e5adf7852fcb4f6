//! Checks names and settings of collections. Pure. Called by [`crate::service`] and
//! [`crate::writes`].

use onnxd_proto::{
    domain::{Facts, Task},
    search::{COLLECTION_NAME_BYTES_MAX, Settings},
};

use crate::{embedding::TASKS, error::SearchError};

/// Returns why a model cannot embed as a collection asks for.
pub(crate) fn fits(facts: &Facts, settings: &Settings) -> Result<(), String> {
    if !TASKS.contains(&facts.task) {
        return Err(format!(
            "does not embed texts, its task is {}; bind the collection to a model that does",
            facts.task.as_str()
        ));
    }
    let prompts = settings.document_prompt.iter().chain(&settings.query_prompt);
    if let Some(unknown) = prompts.into_iter().find(|&prompt| !facts.prompts.contains(prompt)) {
        return Err(match facts.prompts.as_slice() {
            [] => format!("has no prompt `{unknown:.100}`; it defines no prompts"),
            known => {
                format!("has no prompt `{unknown:.100}`; available prompts: {}", known.join(", "))
            }
        });
    }
    match settings.dimensions {
        Some(_) if facts.task == Task::Sparse => {
            Err("has sparse vectors, which `dimensions` cannot cut".to_owned())
        }
        Some(dimensions) if dimensions > facts.dimension => Err(format!(
            "makes vectors of {} components; `dimensions` cannot be {dimensions}",
            facts.dimension
        )),
        _ => Ok(()),
    }
}

/// Returns why a client's vector cannot be compared with those of a model.
pub(crate) fn fits_vector(
    facts: &Facts,
    settings: &Settings,
    components: usize,
) -> Result<(), String> {
    if facts.task != Task::Embed {
        return Err("has no dense vectors; send the text instead".to_owned());
    }
    let wanted = settings.dimensions.unwrap_or(facts.dimension);
    match usize::try_from(wanted) {
        Ok(wanted) if wanted == components => Ok(()),
        _ => Err(format!(
            "makes vectors of {wanted} components in this collection, and this one has {components}; embed the text with as many, or send the text itself"
        )),
    }
}

/// Checks the name of a collection or alias.
///
/// # Errors
/// It is empty, too long, or has a character that is not allowed.
pub(crate) fn check_name(name: &str) -> Result<(), SearchError> {
    let is_plain = |character: char| {
        !character.is_control()
            && !matches!(character, '/' | '\\' | '<' | '>' | ':' | '"' | '|' | '?' | '*')
    };
    if name.is_empty()
        || name.len() > COLLECTION_NAME_BYTES_MAX
        || !name.chars().all(is_plain)
        || matches!(name, "." | "..")
    {
        let message = format!(
            "a name of a collection or alias has 1 to {COLLECTION_NAME_BYTES_MAX} bytes and no control characters or any of / \\ < > : \" | ? *"
        );
        return Err(SearchError::invalid(message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use onnxd_proto::search::Distance;

    use super::*;

    #[test]
    fn vectors_of_another_length_or_kind_are_refused() {
        let facts = Facts { dimension: 4, ..Facts::new(Task::Embed) };
        let settings = |dimensions| Settings {
            model: None,
            distance: Distance::Cosine,
            dimensions,
            declared_dimension: None,
            document_prompt: None,
            query_prompt: None,
            text_field: None,
            metadata: String::new(),
        };
        assert_eq!(fits_vector(&facts, &settings(None), 4), Ok(()));
        assert_eq!(fits_vector(&facts, &settings(Some(2)), 2), Ok(()));
        let long = fits_vector(&facts, &settings(Some(2)), 4).unwrap_err();
        assert!(long.starts_with("makes vectors of 2 components"), "{long}");
        assert!(long.contains("this one has 4;"), "{long}");
        assert!(fits_vector(&facts, &settings(None), 0).is_err());
        let sparse = Facts { task: Task::Sparse, ..facts };
        assert!(fits_vector(&sparse, &settings(None), 4).unwrap_err().contains("send the text"));
    }

    #[test]
    fn names_that_no_path_can_have_are_refused() {
        for name in ["a", "Ä b.c-d_e", &"x".repeat(COLLECTION_NAME_BYTES_MAX)] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let long = "x".repeat(COLLECTION_NAME_BYTES_MAX + 1);
        for name in ["", ".", "..", "a/b", "a\\b", "a\nb", "a?b", &long] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
