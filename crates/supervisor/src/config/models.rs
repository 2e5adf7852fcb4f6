//! `--model` and `--model-alias`: what is served, from where and under which names.

use std::path::Path;

use onnxd_proto::{domain::SourceUri, limits::MODELS_MAX};

use onnxd_engine::models::registry::ModelSource;

use super::absolute;
use onnxd_proto::exit::Failure;

/// Bytes of an alias.
const ALIAS_BYTES_MAX: usize = 256;

/// The models of `--model`, with the aliases of `--model-alias`.
///
/// # Errors
/// The first setting that cannot work, by name.
pub(crate) fn served(specs: &[String], aliases: &[String]) -> Result<Vec<ModelSource>, Failure> {
    let mut models = sources(specs)?;
    for spec in aliases {
        let wrong =
            |reason: &str| Err(Failure::configuration(format!("--model-alias {spec}: {reason}")));
        let Some((alias, name)) = spec.split_once('=') else {
            return wrong("this is not ALIAS=NAME");
        };
        if alias.is_empty() || alias.len() > ALIAS_BYTES_MAX {
            return wrong("an alias has 1 to 256 bytes");
        }
        let is_taken = |model: &ModelSource| {
            model.name.as_str() == alias || model.aliases.iter().any(|other| other == alias)
        };
        if models.iter().any(is_taken) {
            return wrong("another model or alias is called so");
        }
        match models.iter_mut().find(|model| model.name.as_str() == name) {
            Some(model) => model.aliases.push(alias.to_owned()),
            None => return wrong("no model is called so; --model says which there are"),
        }
    }
    Ok(models)
}

fn sources(specs: &[String]) -> Result<Vec<ModelSource>, Failure> {
    if specs.is_empty() {
        return Err(Failure::configuration(
            "no model is given: use --model NAME=DIR, where DIR holds model.onnx and tokenizer.json",
        ));
    }
    if specs.len() > MODELS_MAX {
        return Err(Failure::configuration(format!(
            "{} models are given, at most {MODELS_MAX} can be served",
            specs.len()
        )));
    }
    let mut models: Vec<ModelSource> = Vec::new();
    for spec in specs {
        let model = model(spec)?;
        if models.iter().any(|other| other.name == model.name) {
            let message =
                format!("--model {spec}: the name {:?} is given twice", model.name.as_str());
            return Err(Failure::configuration(message));
        }
        models.push(model);
    }
    Ok(models)
}

fn model(spec: &str) -> Result<ModelSource, Failure> {
    let wrong = |reason: &dyn std::fmt::Display| {
        Failure::configuration(format!("--model {spec}: {reason}"))
    };
    let (name, source) = match spec.split_once('=') {
        // What has a slash or a question mark is part of a path or URI.
        Some((name, source)) if !name.contains(['/', '?']) => (Some(name), source),
        _ => (None, spec),
    };
    let here = absolute(Path::new("."))?;
    let uri = SourceUri::parse_in(&here, source).map_err(|error| wrong(&error))?;
    // Without `.` and the like.
    let SourceUri::Directory { path, choice } = uri;
    let directory = absolute(&path)?;
    if directory.exists() && !directory.is_dir() {
        return Err(wrong(&"this is no directory"));
    }
    let uri = SourceUri::Directory { path: directory, choice };
    let name = name.map_or_else(|| uri.last_name().to_ascii_lowercase(), str::to_owned);
    let name = name.parse().map_err(|error| wrong(&error))?;
    Ok(ModelSource { name, aliases: Vec::new(), uri, preload: true })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(specs: &[&str]) -> Result<Vec<String>, String> {
        let specs: Vec<String> = specs.iter().map(ToString::to_string).collect();
        served(&specs, &[])
            .map(|models| models.into_iter().map(|model| model.name.into()).collect())
            .map_err(|failure| failure.message)
    }

    #[test]
    fn a_model_without_a_name_is_called_like_its_directory() {
        assert_eq!(names(&["m=/x/y", "/x/All-MiniLM"]), Ok(vec!["m".into(), "all-minilm".into()]));
    }

    #[test]
    fn a_directory_is_the_same_source_as_a_path_and_as_a_uri() {
        let uri = |spec: &str| served(&[spec.to_owned()], &[]).unwrap()[0].uri.clone();
        assert_eq!(uri("m=/x/y"), uri("m=file:///x/y"));
        assert_eq!(uri("file:///x/y"), uri("y=/x/./y"));
        assert!(uri("m=y").directory().unwrap().is_absolute());
        assert_eq!(names(&["file:///x/Y", "/x/a=b/c"]), Ok(vec!["y".into(), "c".into()]));
        assert_eq!(uri("m=y?variant=int8"), uri("y?variant=int8"));
        assert_ne!(uri("m=/x/y"), uri("m=/x/y?file=onnx/model_fp16.onnx"));
    }

    #[test]
    fn ambiguous_or_unnamed_models_are_refused_with_the_reason() {
        for (specs, reason) in [
            (&[][..], "no model is given"),
            (&["a=/x", "a=/y"][..], "given twice"),
            (&["A=/x"][..], "is not a model name"),
            (&["/"][..], "is not a model name"),
            (&["a=/dev/null"][..], "no directory"),
            (&["a="][..], "empty"),
            (&["a=s3://bucket/m"][..], "DIR or file:///DIR"),
            (&["a=file://host/m"][..], "file:///DIR"),
            (&["a=/x?file=../m.onnx"][..], "inside the source"),
        ] {
            let message = names(specs).unwrap_err();
            assert!(message.contains(reason), "{specs:?}: {message}");
        }
        let many: Vec<String> = (0..=MODELS_MAX).map(|number| format!("m{number}=/x")).collect();
        assert_eq!(served(&many[1..], &[]).unwrap().len(), MODELS_MAX);
        assert!(served(&many, &[]).unwrap_err().message.contains("at most 63"));
    }

    #[test]
    fn an_alias_names_one_model_or_is_refused_with_the_reason() {
        let with = |aliases: &[&str]| {
            let aliases: Vec<String> = aliases.iter().map(ToString::to_string).collect();
            served(&["a=/x".into(), "b=/y".into()], &aliases).map_err(|failure| failure.message)
        };
        let models = with(&["text-embedding-3-small=b", "org/model=b"]).unwrap();
        assert!(models[0].aliases.is_empty());
        assert_eq!(models[1].aliases, ["text-embedding-3-small", "org/model"]);
        for (aliases, reason) in [
            (&["x"][..], "not ALIAS=NAME"),
            (&["=a"][..], "1 to 256 bytes"),
            (&["x=c"][..], "no model is called so"),
            (&["b=a"][..], "is called so"),
            (&["x=a", "x=b"][..], "is called so"),
        ] {
            let message = with(aliases).unwrap_err();
            assert!(message.contains(reason), "{aliases:?}: {message}");
        }
    }
}
