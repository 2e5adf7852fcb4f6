//! Drops the supervisor's privileges at start, and reports what the kernel lacks to confine workers. Workers and
//! checkers confine themselves (`worker/src/sandbox/`). This process needs its sockets, files and children.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetError,
    Scope,
};
use nix::{sys::prctl, unistd::geteuid};

/// Drops privileges, and warns if workers are not fully confined. Called before a second thread starts.
pub(crate) fn begin(sandbox: bool) {
    drop_privileges();
    if geteuid().is_root() {
        tracing::warn!("running as root; onnxd needs no privileges, run it as another user");
    }
    if !sandbox {
        tracing::warn!(
            "--no-sandbox: workers and checkers are NOT CONFINED; a model or request that takes over \
             one of them can do whatever onnxd can"
        );
        return;
    }
    let missing = missing();
    if !missing.is_empty() {
        tracing::warn!(
            missing = missing.join(", "),
            "this kernel supports only part of the sandbox, applying that part"
        );
    }
}

/// Prevents child processes, including a successor, from gaining privileges.
pub(crate) fn drop_privileges() {
    if let Err(error) = prctl::set_no_new_privs() {
        tracing::warn!(%error, "cannot set no_new_privs, child processes may gain privileges");
    }
}

/// The name of a Landlock feature, and a function that requires it.
type Feature = (&'static str, fn(Ruleset) -> Result<Ruleset, RulesetError>);

/// The features that workers use, oldest first.
const FEATURES: [Feature; 6] = [
    ("Landlock", |rules| rules.handle_access(AccessFs::from_all(ABI::V1))),
    ("Landlock: links and renames across directories", |rules| {
        rules.handle_access(AccessFs::Refer)
    }),
    ("Landlock: truncation", |rules| rules.handle_access(AccessFs::Truncate)),
    ("Landlock: TCP ports", |rules| rules.handle_access(AccessNet::from_all(ABI::V4))),
    ("Landlock: device ioctls", |rules| rules.handle_access(AccessFs::IoctlDev)),
    ("Landlock: scopes", |rules| rules.scope(Scope::from_all(ABI::V6))),
];

/// Returns the names of the features that this kernel lacks. seccomp is not among them: without it no worker
/// starts.
pub(crate) fn missing() -> Vec<&'static str> {
    // Creates rules without applying them.
    let strict = || Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    let lacks = |(_, add): &&Feature| add(strict()).and_then(Ruleset::create).is_err();
    FEATURES.iter().filter(lacks).map(|(name, _)| *name).collect()
}
