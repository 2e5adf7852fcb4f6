//! Maps a variant to the file names that exporters use, best for the CPU first. sentence-transformers
//! writes `model_O2.onnx` and `model_qint8_avx512_vnni.onnx`; transformers.js writes `model_q4.onnx`
//! and `model_quantized.onnx`.

use std::fmt;

/// A CPU's instruction sets for small-integer arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cpu {
    pub(super) avx2: bool,
    pub(super) avx512: bool,
    pub(super) avx512_vnni: bool,
    pub(super) arm64: bool,
}

impl Cpu {
    /// Detects the instruction sets of this machine.
    pub(super) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        {
            Self {
                avx2: is_x86_feature_detected!("avx2"),
                avx512: is_x86_feature_detected!("avx512bw"),
                avx512_vnni: is_x86_feature_detected!("avx512vnni"),
                arm64: false,
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let arm64 = cfg!(target_arch = "aarch64");
            Self { avx2: false, avx512: false, avx512_vnni: false, arm64 }
        }
    }

    /// Returns the instruction sets as spelled in file names, best first.
    fn instructions(self) -> Vec<&'static str> {
        let all = [
            ("avx512_vnni", self.avx512_vnni),
            ("avx512", self.avx512),
            ("avx2", self.avx2),
            ("arm64", self.arm64),
        ];
        all.into_iter().filter_map(|(name, has)| has.then_some(name)).collect()
    }
}

impl fmt::Display for Cpu {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.instructions().first() {
            Some(best) => formatter.write_str(best),
            None => formatter.write_str("without vector instructions for int8"),
        }
    }
}

/// Returns the possible suffixes between `model` and `.onnx` for a variant, best for the CPU first. An
/// unknown variant is used as the suffix itself.
pub(super) fn suffixes(variant: &str, cpu: Cpu) -> Vec<String> {
    let prefixed = |names: &[&str]| names.iter().map(|name| format!("_{name}")).collect::<Vec<_>>();
    match variant.to_ascii_lowercase().as_str() {
        "fp32" | "float32" => [vec![String::new()], prefixed(&["fp32"])].concat(),
        "fp16" | "float16" => prefixed(&["fp16", "float16"]),
        "int8" => {
            [int8(cpu), prefixed(&["int8", "qint8", "quantized", "uint8", "quint8"])].concat()
        }
        "q8" => [prefixed(&["quantized", "q8", "int8"]), int8(cpu)].concat(),
        "uint8" => {
            let made_for = cpu.instructions().into_iter().map(|name| format!("_quint8_{name}"));
            made_for.chain(prefixed(&["uint8", "quint8"])).collect()
        }
        "int4" => prefixed(&["int4", "q4", "q4f16", "bnb4"]),
        "q4" => prefixed(&["q4", "int4"]),
        name => prefixed(&[name]),
    }
}

/// Returns the suffixes of files made for the CPU's instruction sets. Without VNNI, signed weights
/// saturate in AVX2 and AVX-512 products, so unsigned ones are more accurate.
fn int8(cpu: Cpu) -> Vec<String> {
    let signed_first = cpu.avx512_vnni || cpu.arm64;
    let kinds = if signed_first { ["qint8", "quint8"] } else { ["quint8", "qint8"] };
    let suffixes = |name| kinds.map(|kind| format!("_{kind}_{name}"));
    cpu.instructions().into_iter().flat_map(suffixes).collect()
}
