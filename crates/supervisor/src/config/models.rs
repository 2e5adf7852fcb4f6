//! Parses `--model` and `--model-alias`: the served models with their sources and names.

use std::collections::HashSet;

use onnxd_proto::{domain::model_name::ModelName, limits::MODELS_MAX};

use onnxd_engine::models::{registry::ModelSource, sources::SourceRules};

use super::{Problems, source_uri};
use onnxd_proto::exit::Failure;

/// Maximum length of an alias in bytes.
const ALIAS_BYTES_MAX: usize = 256;

/// Returns the models of `--model` with their aliases.
///
/// # Errors
/// A setting is invalid. The message names its flag.
pub(crate) fn parse(specs: &[String], aliases: &[String]) -> Result<Vec<ModelSource>, Failure> {
    let mut models = sources(specs)?;
    let mut former = add_former_names(&mut models);
    for spec in aliases {
        let invalid =
            |reason: &str| Err(Failure::configuration(format!("--model-alias {spec}: {reason}")));
        let Some((alias, name)) = spec.split_once('=') else {
            return invalid("expected ALIAS=NAME, for example text-embedding-3-small=minilm");
        };
        if alias.is_empty() || alias.len() > ALIAS_BYTES_MAX {
            return invalid("expected an alias of 1 to 256 bytes");
        }
        let Some(at) = models.iter().position(|model| model.is_named(name)) else {
            let names = names(&models);
            return invalid(&format!("no model is named {name:?}; the models are: {names}"));
        };
        // The configuration wins over a name that only earlier releases used.
        if former.remove(alias) {
            models.iter_mut().for_each(|model| model.aliases.retain(|other| other != alias));
        }
        if models.iter().any(|model| model.is_named(alias)) {
            return invalid("this alias is already a model's name or alias");
        }
        models[at].aliases.push(alias.to_owned());
    }
    Ok(models)
}

/// Adds the lower-case name of each model as an alias, unless it means another model. Earlier
/// releases served a directory under that name. Returns these aliases.
fn add_former_names(models: &mut [ModelSource]) -> HashSet<String> {
    let lower = |model: &ModelSource| model.name.as_str().to_ascii_lowercase();
    let all: Vec<String> = models.iter().map(lower).collect();
    let mut former = HashSet::new();
    for (model, name) in models.iter_mut().zip(&all) {
        let is_unique = all.iter().filter(|other| *other == name).count() == 1;
        if is_unique && name != model.name.as_str() {
            model.aliases.push(name.clone());
            former.insert(name.clone());
        }
    }
    former
}

/// Returns the names of the models, separated by commas.
pub(super) fn names(models: &[ModelSource]) -> String {
    models.iter().map(|model| model.name.as_str()).collect::<Vec<_>>().join(", ")
}

fn sources(specs: &[String]) -> Result<Vec<ModelSource>, Failure> {
    if specs.is_empty() {
        return Err(Failure::configuration(
            "no model to serve: pass --model NAME=DIR, where DIR holds model.onnx and tokenizer.json",
        ));
    }
    if specs.len() > MODELS_MAX {
        return Err(Failure::configuration(format!(
            "--model: expected at most {MODELS_MAX} models, got {}",
            specs.len()
        )));
    }
    let mut models: Vec<ModelSource> = Vec::new();
    let mut problems = Problems::default();
    for spec in specs {
        let Some(model) = problems.keep(model(spec)) else { continue };
        if models.iter().any(|other| other.name == model.name) {
            let message =
                format!("--model {spec}: another model is already named {:?}", model.name.as_str());
            problems.keep::<()>(Err(Failure::configuration(message)));
            continue;
        }
        models.push(model);
    }
    problems.finish()?;
    Ok(models)
}

fn model(spec: &str) -> Result<ModelSource, Failure> {
    let invalid = |reason: &dyn std::fmt::Display| {
        Failure::configuration(format!("--model {spec}: {reason}"))
    };
    let (name, source) = match spec.split_once('=') {
        // Meant as a name, because no path or URI begins so and goes on with a source. It may be invalid.
        Some((name, source))
            if (source.starts_with('/') || source.contains("://"))
                && name.starts_with(|first: char| first.is_ascii_alphanumeric())
                && !name.contains([':', '?'])
                && name.contains('/') =>
        {
            (Some(name), source)
        }
        // What is not a name but has a slash or question mark is part of a path or URI.
        Some((name, source)) if !name.contains(['/', '?']) || name.parse::<ModelName>().is_ok() => {
            (Some(name), source)
        }
        _ => (None, spec),
    };
    let uri = source_uri(source).map_err(|error| invalid(&error))?;
    if let Some(directory) = uri.directory()
        && directory.exists()
        && !directory.is_dir()
    {
        return Err(invalid(&format!("{} is not a directory", directory.display())));
    }
    let parsed = match name {
        Some(name) => name.parse().map_err(|error| invalid(&error)),
        None => uri.last_name().parse().map_err(|error| {
            invalid(&format!("{error}; pass --model NAME={source} to give it another name"))
        }),
    };
    let name = parsed?;
    let rules = SourceRules::default();
    Ok(ModelSource { name, aliases: Vec::new(), uri, preload: true, required: false, rules })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(specs: &[&str]) -> Result<Vec<String>, String> {
        let specs: Vec<String> = specs.iter().map(ToString::to_string).collect();
        parse(&specs, &[])
            .map(|models| models.into_iter().map(|model| model.name.into()).collect())
            .map_err(|failure| failure.message)
    }

    #[test]
    fn model_name_defaults_to_its_directory() {
        assert_eq!(names(&["m=/x/y", "/x/All-MiniLM"]), Ok(vec!["m".into(), "All-MiniLM".into()]));
        assert_eq!(
            names(&["BAAI/bge-m3=/x/y", "Org/M=hf://Org/M?file=a.onnx"]),
            Ok(vec!["BAAI/bge-m3".into(), "Org/M".into()])
        );
        let message = names(&["/x/a b"]).unwrap_err();
        assert!(message.contains("pass --model NAME=/x/a b"), "{message}");
    }

    #[test]
    fn former_lower_case_name_is_an_alias_unless_it_is_taken() {
        let aliases = |specs: &[&str], aliases: &[&str]| {
            let [specs, aliases] = [specs, aliases]
                .map(|list| list.iter().map(ToString::to_string).collect::<Vec<String>>());
            let models = parse(&specs, &aliases).map_err(|failure| failure.message)?;
            Ok(models.into_iter().map(|model| model.aliases).collect::<Vec<_>>())
        };
        let none = Vec::<String>::new;
        assert_eq!(aliases(&["/x/Mini", "a=/y"], &[]), Ok(vec![vec!["mini".into()], none()]));
        assert_eq!(aliases(&["/x/Mini", "mini=/y"], &[]), Ok(vec![none(), none()]));
        assert_eq!(aliases(&["/x/Mini", "/y/MINI"], &[]), Ok(vec![none(), none()]));
        assert_eq!(
            aliases(&["/x/Mini", "a=/y"], &["mini=a", "b=Mini"]),
            Ok(vec![vec!["b".into()], vec!["mini".into()]])
        );
        let by_former_name = aliases(&["/x/Mini"], &["x=mini"]).unwrap();
        assert_eq!(by_former_name, [["mini".to_owned(), "x".to_owned()]]);
        let taken: Result<_, String> = aliases(&["/x/Mini", "a=/y"], &["Mini=a"]);
        assert!(taken.unwrap_err().contains("already a model's name"));
    }

    #[test]
    fn path_and_uri_of_a_directory_are_the_same_source() {
        let uri = |spec: &str| parse(&[spec.to_owned()], &[]).unwrap()[0].uri.clone();
        assert_eq!(uri("m=/x/y"), uri("m=file:///x/y"));
        assert_eq!(uri("file:///x/y"), uri("y=/x/./y"));
        assert!(uri("m=y").directory().unwrap().is_absolute());
        assert_eq!(names(&["file:///x/Y", "/x/a=b/c"]), Ok(vec!["Y".into(), "c".into()]));
        assert_eq!(uri("m=y?variant=int8"), uri("y?variant=int8"));
        assert_ne!(uri("m=/x/y"), uri("m=/x/y?file=onnx/model_fp16.onnx"));
    }

    #[test]
    fn invalid_models_are_refused_with_the_reason() {
        for (specs, reason) in [
            (&[][..], "no model to serve"),
            (&["a=/x", "a=/y"][..], "already named \"a\""),
            (&["a b=/x"][..], "is not a model name"),
            (&["a//b=/x"][..], "\"a//b\" is not a model name"),
            (&["/"][..], "is not a model name"),
            (&["a=/dev/null"][..], "/dev/null is not a directory"),
            (&["a="][..], "empty"),
            (&["a=ftp://host/m"][..], "DIR or file:///DIR"),
            (&["a=file://host/m"][..], "file:///DIR"),
            (&["a=/x?file=../m.onnx"][..], "inside the source"),
        ] {
            let message = names(specs).unwrap_err();
            assert!(message.contains(reason), "{specs:?}: {message}");
        }
        let many: Vec<String> = (0..=MODELS_MAX).map(|number| format!("m{number}=/x")).collect();
        assert_eq!(parse(&many[1..], &[]).unwrap().len(), MODELS_MAX);
        assert!(parse(&many, &[]).unwrap_err().message.contains("at most 63"));
    }

    #[test]
    fn alias_names_one_model_or_is_refused_with_the_reason() {
        let with = |aliases: &[&str]| {
            let aliases: Vec<String> = aliases.iter().map(ToString::to_string).collect();
            parse(&["a=/x".into(), "b=/y".into()], &aliases).map_err(|failure| failure.message)
        };
        let models = with(&["text-embedding-3-small=b", "org/model=b"]).unwrap();
        assert!(models[0].aliases.is_empty());
        assert_eq!(models[1].aliases, ["text-embedding-3-small", "org/model"]);
        for (aliases, reason) in [
            (&["x"][..], "expected ALIAS=NAME"),
            (&["=a"][..], "1 to 256 bytes"),
            (&["x=c"][..], "no model is named \"c\"; the models are: a, b"),
            (&["b=a"][..], "already a model's name"),
            (&["x=a", "x=b"][..], "already a model's name"),
        ] {
            let message = with(aliases).unwrap_err();
            assert!(message.contains(reason), "{aliases:?}: {message}");
        }
    }
}
