//! Chooses the model file of a source by name. Pure.

use onnxd_proto::domain::{ModelChoice, Refusal, RefusalKind};

use super::variants::{Cpu, suffixes};
use crate::artifacts::MODEL_FILES;

/// Maximum file names in a message.
const SHOWN_MAX: usize = 20;

/// The chosen model file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) file: String,
    /// Why it was chosen, for the log.
    pub(super) reason: String,
}

/// Chooses among `models`, sorted with the top level first. `by` names the origin of `choice`.
///
/// # Errors
/// The source has no model file, lacks the requested one, or has several without a default.
pub(super) fn choose(
    models: &[String],
    choice: &ModelChoice,
    by: &str,
    cpu: Cpu,
) -> Result<Chosen, Refusal> {
    match choice {
        // A file below the searched depth is not in `models`; opening it shows whether it exists.
        ModelChoice::File(file) if models.contains(file) || file.matches('/').count() > 2 => {
            Ok(Chosen { file: file.clone(), reason: format!("named by {by}") })
        }
        ModelChoice::File(file) => {
            refuse(format!("{file}, which {by} names, is missing; {}", available(models)))
        }
        ModelChoice::Variant(name) => variant(models, name, by, cpu),
        ModelChoice::Unstated => default_choice(models),
    }
}

fn variant(models: &[String], name: &str, by: &str, cpu: Cpu) -> Result<Chosen, Refusal> {
    let found = suffixes(name, cpu).into_iter().find_map(|suffix| {
        models.iter().find(|model| {
            let file = model.rsplit('/').next().unwrap_or(model);
            file.eq_ignore_ascii_case(&format!("model{suffix}.onnx"))
        })
    });
    match found {
        Some(file) => Ok(Chosen {
            file: file.clone(),
            reason: format!("variant {name} requested by {by}, the best for this CPU ({cpu})"),
        }),
        None => refuse(format!(
            "no model file of the variant {name:?}, which {by} names, suits this CPU ({cpu}); {}; \
             set `file` to choose any of them",
            available(models)
        )),
    }
}

fn default_choice(models: &[String]) -> Result<Chosen, Refusal> {
    let chosen =
        |file: &str, reason: &str| Ok(Chosen { file: file.to_owned(), reason: reason.to_owned() });
    if let Some(file) = MODEL_FILES.into_iter().find(|file| models.iter().any(|m| m == file)) {
        return chosen(file, "the usual name");
    }
    if let [file] = models {
        return chosen(file, "the only model file");
    }
    let mut usual = models.iter().filter(|model| model.ends_with("/model.onnx"));
    match (usual.next(), usual.next()) {
        (Some(file), None) => chosen(file, "the only one with the usual name"),
        _ if models.is_empty() => refuse(format!(
            "neither {} nor {} exists, nor another .onnx file; export the model, for example \
             with `optimum-cli export onnx --model MODEL DIR`",
            MODEL_FILES[0], MODEL_FILES[1]
        )),
        _ => refuse(format!(
            "several model files but none with the usual name; {}; choose one with \
             `file = \"{}\"` in onnxd.toml, or append ?file={} or ?variant=int8 to the source's URI",
            available(models),
            models[0],
            models[0]
        )),
    }
}

/// Lists the source's model files for messages.
fn available(models: &[String]) -> String {
    if models.is_empty() {
        return "the source has no .onnx file".to_owned();
    }
    let first: Vec<&str> = models.iter().take(SHOWN_MAX).map(String::as_str).collect();
    let more = models.len().saturating_sub(SHOWN_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("the source has {}{more}", first.join(", "))
}

fn refuse(message: String) -> Result<Chosen, Refusal> {
    Err(RefusalKind::Contract.because(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose_file(models: &[&str], choice: &ModelChoice, cpu: Cpu) -> Result<String, String> {
        let models: Vec<String> = models.iter().map(ToString::to_string).collect();
        choose(&models, choice, "onnxd.toml", cpu)
            .map(|chosen| chosen.file)
            .map_err(|refusal| refusal.message)
    }

    fn variant(models: &[&str], name: &str, cpu: Cpu) -> Result<String, String> {
        choose_file(models, &ModelChoice::Variant(name.to_owned()), cpu)
    }

    const OLD: Cpu = Cpu { avx2: true, avx512: false, avx512_vnni: false, arm64: false };
    const NEW: Cpu = Cpu { avx2: true, avx512: true, avx512_vnni: true, arm64: false };
    const ARM: Cpu = Cpu { avx2: false, avx512: false, avx512_vnni: false, arm64: true };

    #[test]
    fn default_is_the_usual_name_or_the_only_file() {
        for (models, expected) in [
            (&["model.onnx", "onnx/model.onnx"][..], "model.onnx"),
            (&["a.onnx", "onnx/model.onnx", "onnx/model_O2.onnx"][..], "onnx/model.onnx"),
            (&["onnx/model_quantized.onnx"][..], "onnx/model_quantized.onnx"),
            (&["bge.onnx"][..], "bge.onnx"),
            (&["0_T/onnx/model.onnx", "0_T/onnx/model_O2.onnx"][..], "0_T/onnx/model.onnx"),
        ] {
            assert_eq!(choose_file(models, &ModelChoice::Unstated, OLD), Ok(expected.to_owned()));
        }
        let message = choose_file(&[], &ModelChoice::Unstated, OLD).unwrap_err();
        assert!(message.contains("neither model.onnx nor onnx/model.onnx exists"), "{message}");
        let two = ["onnx/model_fp16.onnx", "onnx/model_int8.onnx"];
        let message = choose_file(&two, &ModelChoice::Unstated, OLD).unwrap_err();
        for part in [two[0], two[1], "file = ", "?file=", "?variant="] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn missing_file_is_refused_with_the_available_ones() {
        let models = ["onnx/model.onnx", "onnx/model_O2.onnx"];
        let choice = |file: &str| ModelChoice::file(file).unwrap();
        assert_eq!(
            choose_file(&models, &choice("onnx/model_O2.onnx"), OLD).unwrap(),
            "onnx/model_O2.onnx"
        );
        let message = choose_file(&models, &choice("onnx/model_O3.onnx"), OLD).unwrap_err();
        for part in ["onnx/model_O3.onnx", "onnxd.toml", "onnx/model_O2.onnx"] {
            assert!(message.contains(part), "{message}");
        }
    }

    #[test]
    fn variant_resolves_to_the_best_file_for_the_cpu() {
        let hub = [
            "onnx/model.onnx",
            "onnx/model_O1.onnx",
            "onnx/model_O4.onnx",
            "onnx/model_qint8_arm64.onnx",
            "onnx/model_qint8_avx512.onnx",
            "onnx/model_qint8_avx512_vnni.onnx",
            "onnx/model_quint8_avx2.onnx",
        ];
        for (name, cpu, expected) in [
            ("int8", NEW, "onnx/model_qint8_avx512_vnni.onnx"),
            ("int8", Cpu { avx512_vnni: false, ..NEW }, "onnx/model_qint8_avx512.onnx"),
            ("int8", OLD, "onnx/model_quint8_avx2.onnx"),
            ("int8", ARM, "onnx/model_qint8_arm64.onnx"),
            ("uint8", NEW, "onnx/model_quint8_avx2.onnx"),
            ("fp32", NEW, "onnx/model.onnx"),
            ("O4", NEW, "onnx/model_O4.onnx"),
            ("o1", NEW, "onnx/model_O1.onnx"),
            // A full name is used as it is.
            ("qint8_arm64", NEW, "onnx/model_qint8_arm64.onnx"),
        ] {
            assert_eq!(variant(&hub, name, cpu), Ok(expected.to_owned()), "{name}");
        }
        let web = [
            "onnx/model.onnx",
            "onnx/model_bnb4.onnx",
            "onnx/model_fp16.onnx",
            "onnx/model_int8.onnx",
            "onnx/model_q4.onnx",
            "onnx/model_q4f16.onnx",
            "onnx/model_quantized.onnx",
            "onnx/model_uint8.onnx",
        ];
        for (name, expected) in [
            ("int8", "int8"),
            ("q8", "quantized"),
            ("quantized", "quantized"),
            ("uint8", "uint8"),
            ("int4", "q4"),
            ("q4", "q4"),
            ("q4f16", "q4f16"),
            ("bnb4", "bnb4"),
            ("fp16", "fp16"),
        ] {
            let expected = Ok(format!("onnx/model_{expected}.onnx"));
            assert_eq!(variant(&web, name, OLD), expected, "{name}");
        }
    }

    #[test]
    fn variant_without_a_file_is_refused_with_the_available_ones() {
        let message = variant(&["onnx/model_O2.onnx"], "fp16", OLD).unwrap_err();
        assert!(message.contains("fp16") && message.contains("onnx/model_O2.onnx"), "{message}");
        let message = variant(&["onnx/model_qint8_avx512_vnni.onnx"], "int8", OLD).unwrap_err();
        assert!(message.contains("this CPU (avx2)") && message.contains("`file`"), "{message}");
    }
}
