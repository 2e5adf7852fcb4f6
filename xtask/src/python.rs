//! Finds Python and maintains virtual environments: for the scripts in `tools/`, for the tests
//! with third-party clients, for the servers of the tests of sources, and for the service that the
//! benchmark compares with.

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
    print_line, stamp,
};

/// A Python environment, created on first use: a run that finds everything generated needs no
/// Python.
#[derive(Debug)]
pub(crate) struct Python {
    venv: PathBuf,
    requirements: PathBuf,
    /// How to install the requirements.
    dependencies: Dependencies,
    interpreter: OnceCell<PathBuf>,
    installed: OnceCell<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dependencies {
    /// pip resolves dependencies.
    Resolved,
    /// The requirements list every package.
    Listed,
}

impl Python {
    /// Returns the environment of the scripts in `tools/`.
    pub(crate) fn for_tools(layout: &Layout) -> Self {
        let requirements = layout.tools().join("requirements.txt");
        Self::new(layout.venv(), requirements, Dependencies::Resolved)
    }

    /// Returns the environment of the client tests. Their requirements list every package, because
    /// resolving takes longer than installing.
    pub(crate) fn for_clients(layout: &Layout) -> Self {
        let requirements = layout.clients().join("requirements.txt");
        Self::new(layout.clients_venv(), requirements, Dependencies::Listed)
    }

    /// Returns the environment of the service that the benchmark compares with.
    pub(crate) fn of_service(layout: &Layout) -> Self {
        let requirements = layout.service().join("requirements.txt");
        Self::new(layout.service_venv(), requirements, Dependencies::Listed)
    }

    /// Returns the environment of the services that the benchmark of search compares with.
    pub(crate) fn of_search(layout: &Layout) -> Self {
        let requirements = layout.workspace().join("bench/search/requirements.txt");
        Self::new(layout.search_venv(), requirements, Dependencies::Listed)
    }

    /// Returns the environment of the servers that the tests of sources start.
    pub(crate) fn of_sources(layout: &Layout, requirements: &str) -> Self {
        let requirements = layout.workspace().join("tests/sources").join(requirements);
        Self::new(layout.sources_venv(), requirements, Dependencies::Resolved)
    }

    /// Returns the environment of PostgreSQL's servers. The package's dependencies are for Python.
    pub(crate) fn of_postgres(layout: &Layout) -> Self {
        let requirements = layout.workspace().join("tests/sources/requirements-postgres.txt");
        Self::new(layout.postgres_venv(), requirements, Dependencies::Listed)
    }

    /// Returns the directory of an installed package.
    pub(crate) fn package(&self, name: &str) -> Result<PathBuf, Error> {
        let code = "import importlib.util, sys
print(importlib.util.find_spec(sys.argv[1]).submodule_search_locations[0])";
        let output = self.command()?.args(["-c", code, name]).output();
        let output = output.map_err(Error::io("cannot start", &self.venv))?;
        let what = format!("looking for package {name}");
        match output.status.success() {
            true => Ok(PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())),
            false => Err(Error::Failed { what, status: output.status }),
        }
    }

    /// Returns the directory of installed programs.
    pub(crate) fn programs(&self) -> PathBuf {
        self.venv.join("bin")
    }

    fn new(venv: PathBuf, requirements: PathBuf, dependencies: Dependencies) -> Self {
        Self {
            venv,
            requirements,
            dependencies,
            interpreter: OnceCell::new(),
            installed: OnceCell::new(),
        }
    }

    /// Returns a command that runs the interpreter with all packages installed.
    pub(crate) fn command(&self) -> Result<Command, Error> {
        self.install()?;
        Ok(Command::new(self.interpreter()?))
    }

    /// Returns the environment's interpreter. pip runs from it as well, so the system needs no pip.
    fn interpreter(&self) -> Result<&Path, Error> {
        if let Some(interpreter) = self.interpreter.get() {
            return Ok(interpreter);
        }
        let interpreter = self.venv.join("bin/python");
        if !succeeds(Command::new(&interpreter).args(["-m", "pip", "--version"])) {
            self.create()?;
        }
        Ok(self.interpreter.get_or_init(|| interpreter))
    }

    fn create(&self) -> Result<(), Error> {
        let python = system();
        check(&python)?;
        print_line("creating a Python environment");
        let status = Command::new(&python)
            .args(["-m", "venv", "--clear"])
            .arg(&self.venv)
            .status()
            .map_err(|source| Error::NoPython { python: python.clone(), source })?;
        if status.success() { Ok(()) } else { Err(Error::NoVenv { python }) }
    }

    /// Runs a script in `tools/` with its packages installed.
    pub(crate) fn run_tool<A: AsRef<OsStr>>(&self, script: &Path, args: &[A]) -> Result<(), Error> {
        self.install()?;
        self.run(Command::new(self.interpreter()?).arg(script).args(args), script)
    }

    /// Runs Python code that needs no package.
    pub(crate) fn run_code<A: AsRef<OsStr>>(&self, code: &str, args: &[A]) -> Result<(), Error> {
        let what = Path::new("python");
        self.run(Command::new(self.interpreter()?).arg("-c").arg(code).args(args), what)
    }

    fn run(&self, command: &mut Command, what: &Path) -> Result<(), Error> {
        // Do not write bytecode: the scripts are in the workspace, which must stay clean.
        let status = command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .status()
            .map_err(Error::io("cannot start", &self.venv))?;
        if status.success() {
            return Ok(());
        }
        Err(Error::Failed { what: what.display().to_string(), status })
    }

    /// Runs pip, which shows its own progress. `what` names the download in errors.
    pub(crate) fn pip<A: AsRef<OsStr>>(&self, args: &[A], what: &str) -> Result<(), Error> {
        let status = Command::new(self.interpreter()?)
            .args(["-m", "pip", "--disable-pip-version-check", "--no-input"])
            .args(args)
            .status()
            .map_err(Error::io("cannot start", &self.venv))?;
        if status.success() { Ok(()) } else { Err(Error::Pip { what: what.to_owned(), status }) }
    }

    /// Installs the packages of requirements.txt if the file has changed.
    fn install(&self) -> Result<(), Error> {
        if self.installed.get().is_some() {
            return Ok(());
        }
        self.interpreter()?; // first, because recreating the environment removes the stamp
        let key = stamp::sha256_of_file(&self.requirements)?;
        let done = self.venv.join("requirements.stamp");
        if !stamp::matches(&done, &key) {
            let _ = fs::remove_file(&done);
            let what = format!("the packages of {}", shown(&self.requirements));
            print_line(&format!("installing {what}"));
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
        self.installed.get_or_init(|| ());
        Ok(())
    }
}

/// Returns the interpreter that creates the environments.
fn system() -> String {
    std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Returns whether the client tests' packages are pinned for the system's Python.
pub(crate) fn runs_clients() -> bool {
    let version =
        "import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))";
    succeeds(Command::new(system()).args(["-c", version]))
}

/// Checks the requirements of venv, whose own errors are less clear.
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
