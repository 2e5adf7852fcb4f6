//! Activation functions of dense layers, with torch's default constants. Used by [`super::dense`].

/// An activation function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nonlinear {
    Identity,
    Tanh,
    Sigmoid,
    Relu,
    LeakyRelu,
    Elu,
    Gelu,
    Silu,
    Mish,
}

/// The last part of the class name of each function.
const CLASSES: [(&str, Nonlinear); 9] = [
    ("Identity", Nonlinear::Identity),
    ("Tanh", Nonlinear::Tanh),
    ("Sigmoid", Nonlinear::Sigmoid),
    ("ReLU", Nonlinear::Relu),
    ("LeakyReLU", Nonlinear::LeakyRelu),
    ("ELU", Nonlinear::Elu),
    ("GELU", Nonlinear::Gelu),
    ("SiLU", Nonlinear::Silu),
    ("Mish", Nonlinear::Mish),
];
/// The modules in which torch defines and re-exports its classes.
const MODULES: [&str; 4] =
    ["torch.nn.modules.activation", "torch.nn.modules.linear", "torch.nn.modules", "torch.nn"];

impl Nonlinear {
    /// Returns the function of a torch class, by its full name. A class of the same name in another
    /// module is unknown, since it may do anything.
    pub(super) fn from_class(name: &str) -> Option<Self> {
        let (module, class) = name.rsplit_once('.')?;
        let found = CLASSES.iter().find(|(known, _)| *known == class)?;
        MODULES.contains(&module).then_some(found.1)
    }

    /// Returns the names of all classes, for messages.
    pub(super) fn supported_classes() -> String {
        CLASSES.map(|(name, _)| name).join(", ")
    }

    /// Applies the function to each number.
    pub(super) fn apply(self, values: &mut [f32]) {
        let each: fn(f32) -> f32 = match self {
            Self::Identity => return,
            Self::Tanh => f32::tanh,
            Self::Sigmoid => sigmoid,
            Self::Relu => relu,
            Self::LeakyRelu => |value| if value > 0.0 { value } else { 0.01 * value },
            Self::Elu => |value| if value > 0.0 { value } else { value.exp_m1() },
            Self::Gelu => {
                |value| 0.5 * value * (1.0 + libm::erff(value * std::f32::consts::FRAC_1_SQRT_2))
            }
            Self::Silu => |value| value * sigmoid(value),
            Self::Mish => |value| value * softplus(value).tanh(),
        };
        values.iter_mut().for_each(|value| *value = each(*value));
    }
}

fn sigmoid(value: f32) -> f32 {
    1.0 / (1.0 + (-value).exp())
}

/// Keeps NaN, unlike `f32::max`: an invalid vector must not look like a valid one.
fn relu(value: f32) -> f32 {
    if value < 0.0 { 0.0 } else { value }
}

fn softplus(value: f32) -> f32 {
    // Beyond this, the result equals the value; torch has the same limit.
    if value > 20.0 { value } else { value.exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn activations_match_torch() {
        let classes = [
            ("linear.Identity", [-2.0, 0.0, 0.5, 3.0]),
            ("activation.Tanh", [-0.964_027_6, 0.0, 0.462_117_16, 0.995_054_8]),
            ("activation.Sigmoid", [0.119_202_92, 0.5, 0.622_459_35, 0.952_574_1]),
            ("activation.ReLU", [0.0, 0.0, 0.5, 3.0]),
            ("activation.LeakyReLU", [-0.02, 0.0, 0.5, 3.0]),
            ("activation.ELU", [-0.864_664_7, 0.0, 0.5, 3.0]),
            ("activation.GELU", [-0.045_500_264, 0.0, 0.345_731_23, 2.995_950_3]),
            ("activation.SiLU", [-0.238_405_84, 0.0, 0.311_229_67, 2.857_722_3]),
            ("activation.Mish", [-0.252_501_5, 0.0, 0.375_245_3, 2.986_535]),
        ];
        for (class, expected) in classes {
            let function = Nonlinear::from_class(&format!("torch.nn.modules.{class}")).unwrap();
            let mut values = [-2.0, 0.0, 0.5, 3.0];
            function.apply(&mut values);
            for (value, expected) in values.iter().zip(expected) {
                assert!((value - expected).abs() < 1e-6, "{class}: {value} is not {expected}");
            }
        }
    }

    #[test]
    fn classes_outside_torch_are_unknown() {
        assert_eq!(Nonlinear::from_class("torch.nn.Tanh"), Some(Nonlinear::Tanh));
        for class in ["Tanh", "my.module.Tanh", "torch.nn.modules.activation.Softmax", ""] {
            assert_eq!(Nonlinear::from_class(class), None, "{class}");
        }
    }
}
