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

/// Returns why a model does not make the vectors that a client declared for the collection.
pub(crate) fn fits_declared(facts: &Facts, settings: &Settings) -> Result<(), String> {
    let Settings { declared_dimension: Some(declared), dimensions, .. } = settings else {
        return Ok(());
    };
    let own = facts.dimension;
    // Sparse vectors have no components that could be compared.
    if facts.task != Task::Embed || dimensions.unwrap_or(own) == *declared {
        return Ok(());
    }
    Err(match dimensions {
        Some(kept) => format!(
            "makes vectors of {kept} components in this collection, as `dimensions` in the metadata says, but the collection declares size {declared}; use the same number"
        ),
        None => format!(
            "makes vectors of {own} components, but the collection declares size {declared}; create it with size {own}, or set `dimensions` in its metadata to keep fewer"
        ),
    })
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

    fn settings(dimensions: Option<u32>) -> Settings {
        Settings {
            model: None,
            distance: Distance::Cosine,
            dimensions,
            declared_dimension: None,
            document_prompt: None,
            query_prompt: None,
            text_field: None,
            metadata: String::new(),
        }
    }

    #[test]
    fn vectors_of_another_length_or_kind_are_refused() {
        let facts = Facts { dimension: 4, ..Facts::new(Task::Embed) };
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
    fn a_declared_size_is_compared_with_what_the_model_makes() {
        let facts = Facts { dimension: 4, ..Facts::new(Task::Embed) };
        let check = |facts: &Facts, declared_dimension, dimensions| {
            let settings = Settings { declared_dimension, dimensions, ..settings(None) };
            fits_declared(facts, &settings)
        };
        for (declared, kept) in [(None, None), (Some(4), None), (Some(2), Some(2))] {
            assert_eq!(check(&facts, declared, kept), Ok(()));
        }
        let long = check(&facts, Some(384), None).unwrap_err();
        assert!(long.contains("of 4 components") && long.contains("declares size 384"), "{long}");
        let cut = check(&facts, Some(4), Some(2)).unwrap_err();
        assert!(cut.contains("of 2 components") && cut.contains("declares size 4"), "{cut}");
        let sparse = Facts { task: Task::Sparse, ..facts };
        assert_eq!(check(&sparse, Some(384), None), Ok(()));
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
