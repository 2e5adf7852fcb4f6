//! `cargo xtask serve`: builds onnxd, starts it with a model, and prints how to try it.

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs as _},
    path::{Path, PathBuf},
    process::{Child, ExitCode},
    thread,
    time::Duration,
};

use clap::Args;

use crate::{
    error::Error,
    fetch,
    layout::{Layout, shown},
    model::{self, MINILM_NAME, VARIANT_NAME},
    print_line, process,
    python::Python,
};

/// Interval between readiness probes, and timeout of one probe.
const PROBE_INTERVAL: Duration = Duration::from_millis(20);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Address to serve on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: String,
    /// Model to serve instead of MiniLM, which is then not fetched; may be repeated
    #[arg(long = "model", value_name = "[NAME=]URI")]
    models: Vec<String>,
    /// ONNX Runtime library to use instead of fetching one
    #[arg(long, value_name = "PATH")]
    onnxruntime: Option<PathBuf>,
    /// More arguments for `onnxd serve`
    #[arg(last = true, value_name = "ARGS")]
    extra: Vec<OsString>,
}

pub(crate) fn run(layout: &Layout, options: Options) -> Result<ExitCode, Error> {
    process::build(layout, &build_arguments(&options))?;
    fetch_missing(layout, &options)?;
    let address = free_address(&options.listen)?;
    let mut child = process::start_bound(&layout.quick("onnxd"), &arguments(layout, &options))?;
    if let Some(address) = address
        && wait_until_ready(&mut child, address)?
    {
        print_line(&instructions(layout, &options, address));
    }
    let status = child.wait().map_err(Error::io("cannot wait for", &layout.quick("onnxd")))?;
    Ok(process::exit_code(status))
}

/// Returns the arguments of `cargo build`. The fetcher and the client of PostgreSQL are built only if
/// an argument needs them, so that the first start of a newcomer stays fast.
fn build_arguments(options: &Options) -> Vec<&'static str> {
    let mut arguments =
        vec!["--profile", "quick", "-p", "onnxd", "-p", "onnxd-worker", "-p", "onnxd-index"];
    let extra = options.extra.iter().map(|argument| argument.to_string_lossy().into_owned());
    if options.extra.iter().any(|argument| argument.to_string_lossy().contains("postgres")) {
        arguments.extend(["-p", "onnxd-postgres"]);
    }
    let is_remote = |text: String| {
        text.contains("://") && !text.contains("file://") && !text.contains("postgres")
    };
    if options.models.iter().cloned().chain(extra).any(is_remote) {
        arguments.extend(["-p", "onnxd-fetch"]);
    }
    arguments
}

/// Fetches and generates what the options do not provide.
fn fetch_missing(layout: &Layout, options: &Options) -> Result<(), Error> {
    let _lock = layout.lock()?;
    let python = Python::for_tools(layout);
    if options.onnxruntime.is_none() {
        fetch::runtime(layout, &python)?;
    }
    if options.models.is_empty() {
        model::minilm(layout, &python)?;
    }
    Ok(())
}

/// Returns the address to probe, or `None` if the system chooses the port. Fails if the address is
/// in use: another server could answer the probes.
fn free_address(listen: &str) -> Result<Option<SocketAddr>, Error> {
    let unusable = |source| Error::Listen { listen: listen.to_owned(), source };
    let bound = TcpListener::bind(listen).map_err(unusable)?;
    let mut addresses = listen.to_socket_addrs().map_err(unusable)?;
    let mut address = addresses.next().filter(|address| address.port() != 0);
    drop(bound);
    if let Some(address) = &mut address
        && address.ip().is_unspecified()
    {
        let loopback =
            if address.is_ipv4() { [127, 0, 0, 1].into() } else { [0, 0, 0, 0, 0, 0, 0, 1].into() };
        address.set_ip(loopback);
    }
    Ok(address)
}

fn arguments(layout: &Layout, options: &Options) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["serve".into()];
    if options.models.is_empty() {
        let minilm = layout.models().join(MINILM_NAME);
        args.extend(["--model".into(), format!("{MINILM_NAME}={}", shown(&minilm)).into()]);
    }
    for model in &options.models {
        args.extend(["--model".into(), model.into()]);
    }
    let runtime = options.onnxruntime.clone().unwrap_or_else(|| layout.runtime());
    let mut set = |flag: &str, value: &Path| args.extend([flag.into(), shown(value).into()]);
    set("--listen", Path::new(&options.listen));
    set("--admin-socket", &layout.admin_socket());
    set("--state-dir", &layout.state());
    set("--onnxruntime", &runtime);
    set("--worker-binary", &layout.quick("onnxd-worker"));
    args.extend(options.extra.iter().cloned());
    args
}

/// Returns true once the server is ready, false if it exits first.
fn wait_until_ready(child: &mut Child, address: SocketAddr) -> Result<bool, Error> {
    loop {
        let exited = child.try_wait().map_err(Error::io("cannot wait for", Path::new("onnxd")))?;
        if exited.is_some() {
            return Ok(false);
        }
        if is_ready(address).unwrap_or(false) {
            return Ok(true);
        }
        thread::sleep(PROBE_INTERVAL);
    }
}

fn is_ready(address: SocketAddr) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    let request =
        format!("GET /v2/health/ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut start = [0; 12];
    stream.read_exact(&mut start)?;
    Ok(&start == b"HTTP/1.1 200")
}

/// Returns commands for the running server, ready to be pasted.
fn instructions(layout: &Layout, options: &Options, address: SocketAddr) -> String {
    let (name, update) = match options.models.first() {
        None => (MINILM_NAME.to_owned(), shown(&layout.models().join(VARIANT_NAME))),
        Some(model) => (model_name(model), "DIR".to_owned()),
    };
    let socket = shown(&layout.admin_socket());
    let onnxd = shown(&layout.quick("onnxd"));
    format!(
        "onnxd serves {name} on http://{address}, admin socket {socket}

  curl http://{address}/embed -H 'content-type: application/json' -d '{{\"inputs\": \"How big is London\"}}'

Update it while it serves:
  {onnxd} update {name} --from {update} --admin-socket {socket}
Stop with Ctrl-C."
    )
}

/// Returns the name in `[NAME=]URI`, which defaults to the last part of the path, without a revision.
fn model_name(model: &str) -> String {
    match model.split_once('=') {
        Some((name, _)) => name.to_owned(),
        None => {
            let last = model.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
            last.split(['@', ':']).next().unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(models: &[&str], onnxruntime: Option<&str>) -> Options {
        Options {
            listen: "127.0.0.1:8080".to_owned(),
            models: models.iter().map(ToString::to_string).collect(),
            onnxruntime: onnxruntime.map(PathBuf::from),
            extra: vec!["--workers".into(), "1".into()],
        }
    }

    #[test]
    fn minilm_is_served_when_no_model_is_given() {
        let layout = Layout::under(Path::new("/t"));
        let args = arguments(&layout, &options(&[], None)).join(" ".as_ref());
        assert_eq!(
            args.to_str().unwrap(),
            "serve --model minilm=/t/onnxd/models/minilm --listen 127.0.0.1:8080 \
             --admin-socket /t/onnxd/admin.sock --state-dir /t/onnxd/state \
             --onnxruntime /t/onnxd/onnxruntime/libonnxruntime.so.1.31.1 \
             --worker-binary /t/quick/onnxd-worker --workers 1"
        );
    }

    #[test]
    fn given_models_and_library_are_passed_on() {
        let layout = Layout::under(Path::new("/t"));
        let args =
            arguments(&layout, &options(&["x=/m", "/n"], Some("/lib.so"))).join(" ".as_ref());
        let args = args.to_str().unwrap();
        assert!(args.starts_with("serve --model x=/m --model /n --listen"), "{args}");
        assert!(args.contains("--onnxruntime /lib.so") && !args.contains("minilm"), "{args}");
    }

    #[test]
    fn the_fetcher_and_the_client_of_databases_are_built_on_demand() {
        let is_built = |options| build_arguments(&options).contains(&"onnxd-fetch");
        assert!(!is_built(options(&[], None)));
        assert!(!is_built(options(&["/m", "x=file:///m"], None)));
        assert!(is_built(options(&["/m", "x=hf://org/name"], None)));
        let extra = vec!["--model".into(), "s3://bucket/m".into()];
        assert!(is_built(Options { extra, ..options(&[], None) }));
        let extra = vec!["--search".into(), "postgres://me@localhost/db".into()];
        let database = Options { extra, ..options(&[], None) };
        assert!(build_arguments(&database).contains(&"onnxd-postgres") && !is_built(database));
        assert!(!build_arguments(&options(&[], None)).contains(&"onnxd-postgres"));
    }

    #[test]
    fn a_model_is_named_after_its_directory_unless_it_has_a_name() {
        assert_eq!(model_name("x=/models/y"), "x");
        assert_eq!(model_name("/models/y/"), "y");
        assert_eq!(model_name("hf://org/y@v2"), "y");
    }

    #[test]
    fn instructions_name_the_address_and_the_variant() {
        let layout = Layout::under(Path::new("/t"));
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        let text = instructions(&layout, &options(&[], None), address);
        assert!(text.contains("curl http://127.0.0.1:8080/embed"), "{text}");
        assert!(text.contains("update minilm --from /t/onnxd/models/minilm-variant"), "{text}");
    }

    #[test]
    fn documents_show_the_instructions() {
        let workspace = Layout::for_workspace().workspace().to_owned();
        let address = SocketAddr::from(([127, 0, 0, 1], 8080));
        // Relative, as in the workspace.
        let layout = Layout::under(Path::new("target"));
        let printed = instructions(&layout, &options(&[], None), address);
        for document in ["README.md", "docs/getting-started.md"] {
            let text = std::fs::read_to_string(workspace.join(document)).unwrap();
            let (_, rest) = text.split_once("$ cargo xtask serve\n…\n").unwrap();
            let (shown, _) = rest.split_once("```").unwrap();
            assert!(!shown.is_empty() && format!("{printed}\n").starts_with(shown), "{document}");
        }
    }

    #[test]
    fn a_used_address_is_refused_and_any_is_probed_on_loopback() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(free_address(&format!("127.0.0.1:{port}")).is_err());
        drop(listener);
        let probed = free_address(&format!("0.0.0.0:{port}")).unwrap();
        assert_eq!(probed, Some(SocketAddr::from(([127, 0, 0, 1], port))));
        assert_eq!(free_address("127.0.0.1:0").unwrap(), None);
    }
}
