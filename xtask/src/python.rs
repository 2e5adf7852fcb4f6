//! Python: finds it, and keeps a virtual environment with pip and the converter's packages in it.

use std::cell::OnceCell;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::Error;
use crate::layout::Layout;
use crate::say;
use crate::stamp;

/// Python, set up when something needs it for the first time and not before: a run that finds everything
/// made works without.
#[derive(Debug)]
pub(crate) struct Python {
    venv: PathBuf,
    requirements: PathBuf,
    bare: OnceCell<PathBuf>,
    equipped: OnceCell<()>,
}

impl Python {
    pub(crate) fn of(layout: &Layout) -> Self {
        Self {
            venv: layout.venv(),
            requirements: layout.tools().join("requirements.txt"),
            bare: OnceCell::new(),
            equipped: OnceCell::new(),
        }
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
        let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
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
            say("installing the packages of tools/requirements.txt");
            let install = ["install", "--only-binary=:all:", "--requirement"].map(OsStr::new);
            let args: Vec<&OsStr> =
                install.into_iter().chain([self.requirements.as_os_str()]).collect();
            self.pip(&args, "the packages of tools/requirements.txt")?;
            stamp::write(&done, &key)?;
        }
        self.equipped.get_or_init(|| ());
        Ok(())
    }
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
