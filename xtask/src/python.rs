//! Python: finds it, and keeps virtual environments with pip and the packages of a requirements.txt in them:
//! one for the scripts of `tools/`, one for the tests with other people's clients.

use std::{
    cell::OnceCell,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::{
    error::Error,
    layout::{Layout, shown},
    say, stamp,
};

/// Python, set up when something needs it for the first time and not before: a run that finds everything
/// made works without.
#[derive(Debug)]
pub(crate) struct Python {
    venv: PathBuf,
    requirements: PathBuf,
    /// What is installed beside the requirements: for a list of everything, nothing.
    dependencies: Dependencies,
    bare: OnceCell<PathBuf>,
    equipped: OnceCell<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dependencies {
    Resolved,
    Listed,
}

impl Python {
    /// The environment of the scripts in `tools/`.
    pub(crate) fn of(layout: &Layout) -> Self {
        let requirements = layout.tools().join("requirements.txt");
        Self::new(layout.venv(), requirements, Dependencies::Resolved)
    }

    /// The environment of the clients' tests. Their requirements are a list of everything, so that pip has
    /// nothing to resolve, which would take longer than installing.
    pub(crate) fn of_clients(layout: &Layout) -> Self {
        let requirements = layout.clients().join("requirements.txt");
        Self::new(layout.clients_venv(), requirements, Dependencies::Listed)
    }

    fn new(venv: PathBuf, requirements: PathBuf, dependencies: Dependencies) -> Self {
        Self { venv, requirements, dependencies, bare: OnceCell::new(), equipped: OnceCell::new() }
    }

    /// A command that runs the interpreter with the packages.
    pub(crate) fn command(&self) -> Result<Command, Error> {
        self.equip()?;
        Ok(Command::new(self.interpreter()?))
    }

    /// The environment's interpreter. pip is run from there too, so that the system needs none.
    fn interpreter(&self) -> Result<&Path, Error> {
        if let Some(interpreter) = self.bare.get() {
            return Ok(interpreter);
        }
        let interpreter = self.venv.join("bin/python");
        if !succeeds(Command::new(&interpreter).args(["-m", "pip", "--version"])) {
            self.create()?;
        }
        Ok(self.bare.get_or_init(|| interpreter))
    }

    fn create(&self) -> Result<(), Error> {
        let python = system();
        check(&python)?;
        say("making a Python environment");
        let status = Command::new(&python)
            .args(["-m", "venv", "--clear"])
            .arg(&self.venv)
            .status()
            .map_err(|source| Error::NoPython { python: python.clone(), source })?;
        if status.success() { Ok(()) } else { Err(Error::NoVenv { python }) }
    }

    /// Runs a script of `tools/`, with the packages that they need.
    pub(crate) fn run_tool<A: AsRef<OsStr>>(&self, script: &Path, args: &[A]) -> Result<(), Error> {
        self.equip()?;
        self.run(Command::new(self.interpreter()?).arg(script).args(args), script)
    }

    /// Runs a few lines of Python that need no package.
    pub(crate) fn run_code<A: AsRef<OsStr>>(&self, code: &str, args: &[A]) -> Result<(), Error> {
        let what = Path::new("python");
        self.run(Command::new(self.interpreter()?).arg("-c").arg(code).args(args), what)
    }

    fn run(&self, command: &mut Command, what: &Path) -> Result<(), Error> {
        // No bytecode: the scripts lie in the workspace, and nothing is to be written there.
        let status = command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .status()
            .map_err(Error::io("cannot start", &self.venv))?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Failed { what: what.display().to_string(), status })
    }

    /// Runs pip; `what` is what it fetches, for the message. It shows its own progress.
    pub(crate) fn pip<A: AsRef<OsStr>>(&self, args: &[A], what: &str) -> Result<(), Error> {
        let status = Command::new(self.interpreter()?)
            .args(["-m", "pip", "--disable-pip-version-check", "--no-input"])
            .args(args)
            .status()
            .map_err(Error::io("cannot start", &self.venv))?;
        if status.success() { Ok(()) } else { Err(Error::Pip { what: what.to_owned(), status }) }
    }

    /// Installs the packages of requirements.txt, again only when that has changed.
    fn equip(&self) -> Result<(), Error> {
        if self.equipped.get().is_some() {
            return Ok(());
        }
        self.interpreter()?; // first, because making the environment anew removes the stamp
        let key = stamp::sha256_of_file(&self.requirements)?;
        let done = self.venv.join("requirements.stamp");
        if !stamp::is(&done, &key) {
            let _ = fs::remove_file(&done);
            let what = format!("the packages of {}", shown(&self.requirements));
            say(&format!("installing {what}"));
            let mut args = vec!["install", "--only-binary=:all:"];
            if self.dependencies == Dependencies::Listed {
                args.extend(["--no-deps", "--quiet"]);
            }
            args.push("--requirement");
            let mut args: Vec<&OsStr> = args.into_iter().map(OsStr::new).collect();
            args.push(self.requirements.as_os_str());
            self.pip(&args, &what)?;
            stamp::write(&done, &key)?;
        }
        self.equipped.get_or_init(|| ());
        Ok(())
    }
}

/// The interpreter that environments are made with.
fn system() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Whether the system's Python is one that the clients' packages are pinned for.
pub(crate) fn runs_clients() -> bool {
    let version =
        "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))";
    succeeds(Command::new(system()).args(["-c", version]))
}

/// Says what is missing before venv fails in its own words.
fn check(python: &str) -> Result<(), Error> {
    let version = "import sys; sys.exit(sys.version_info < (3, 9))";
    let modern = Command::new(python)
        .args(["-c", version])
        .stderr(Stdio::null())
        .status()
        .map_err(|source| Error::NoPython { python: python.to_owned(), source })?;
    if !modern.success() {
        return Err(Error::OldPython { python: python.to_owned() });
    }
    if !succeeds(Command::new(python).args(["-c", "import venv, ensurepip"])) {
        return Err(Error::NoVenv { python: python.to_owned() });
    }
    Ok(())
}

fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}
