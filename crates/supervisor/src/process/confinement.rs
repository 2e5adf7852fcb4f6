//! What the supervisor says and does about confinement at its start. Workers and checkers confine
//! themselves (`crates/sandbox`); this process, whose sockets, files and children are its
//! work, only gives up what it will never need.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    Scope,
};
use nix::{sys::prctl, unistd::geteuid};

/// Gives up privileges that a program could bring, and says what is missing. Called before there
/// is a second thread.
pub(crate) fn begin(sandbox: bool) {
    give_up_privileges();
    if geteuid().is_root() {
        tracing::warn!("running as root, which is not needed: any user will do");
    }
    if !sandbox {
        tracing::warn!(
            "--no-sandbox: workers and checkers are NOT CONFINED; whoever takes over one of them by \
             a model or a request can do what onnxd can"
        );
        return;
    }
    let missing = missing();
    if !missing.is_empty() {
        tracing::warn!(
            missing = missing.join(", "),
            "this kernel does not offer all of the confinement; the rest of it is applied"
        );
    }
}

/// What this process starts, a successor of its own as well, gets what it has and no more.
pub(crate) fn give_up_privileges() {
    if let Err(error) = prctl::set_no_new_privs() {
        tracing::warn!(%error, "programs that are started may gain privileges");
    }
}

/// A part of Landlock, and what it is to a worker.
type Part = (&'static str, fn(Ruleset) -> Result<Ruleset, RulesetError>);

/// In the order in which kernels got them.
const PARTS: [Part; 6] = [
    ("Landlock", |rules| rules.handle_access(AccessFs::from_all(ABI::V1))),
    ("Landlock's rule for links between directories", |rules| rules.handle_access(AccessFs::Refer)),
    ("Landlock's rule for truncating", |rules| rules.handle_access(AccessFs::Truncate)),
    ("Landlock's rules for ports", |rules| rules.handle_access(AccessNet::from_all(ABI::V4))),
    ("Landlock's rule for devices", |rules| rules.handle_access(AccessFs::IoctlDev)),
    ("Landlock's scopes", |rules| rules.scope(Scope::from_all(ABI::V6))),
];

/// What of a worker's confinement this kernel does not know, by name. Without seccomp no worker
/// starts.
pub(crate) fn missing() -> Vec<&'static str> {
    // Nothing is restricted by this: the rules are made and let go.
    let strict = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let lacks = |(_, add): &&Part| add(strict()).and_then(Ruleset::create).is_err();
    PARTS.iter().filter(lacks).map(|(name, _)| *name).collect()
}
