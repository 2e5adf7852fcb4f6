//! A fake supervisor for one worker: descriptors, state directory, handshake, and groups of texts.

use std::{
    fs,
    io::{self, PipeWriter},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    sched::{CpuSet, sched_getaffinity},
    unistd::Pid,
};
use onnxd_proto::{
    BUILD_ID,
    control_page::ControlPage,
    domain::{Facts, PoolingMode, Record, Task, tensor::TensorHead},
    generation::Generation,
    layout::Layout,
    wire::{
        frame::{self, Direction, Frame},
        message::{self, FromWorker, ModelSlot, NamedSocket, ToWorker, Welcome},
        operation::{AnsweredItem, Item, Operation, Rejection, Side, TextOperation, TextOutput},
    },
};
use tempfile::TempDir;

use crate::fixtures::{WORKER, model, onnxruntime};

/// The name of the only model.
const MODEL: &str = "m";
/// Longer than any answer takes.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A supervisor of one worker and one model.
pub(crate) struct Supervisor {
    /// The worker, or a process between it and this one.
    pub(crate) child: Child,
    page: ControlPage,
    layout: Layout,
    /// `None` once closed.
    socket: Option<UnixStream>,
    /// The pipe for terminating groups, unused by these tests.
    _orders: PipeWriter,
    frame: Frame,
    last_id: u64,
    /// Helper CPUs of the worker. If there are any, groups are wide.
    helper_cpus: Vec<u16>,
    _state: TempDir,
}

/// An embedding with its generation and token count.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Embedded {
    pub(crate) generation: Generation,
    pub(crate) tokens: u32,
    pub(crate) embedding: Vec<f32>,
}

/// The raw answer to one item.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Raw {
    pub(crate) tokens: u32,
    pub(crate) bytes: Vec<u8>,
    pub(crate) outputs: Vec<TensorHead>,
    /// Items answered by the same run.
    pub(crate) together: usize,
}

/// Decodes little-endian numbers.
pub(crate) fn floats(bytes: &[u8]) -> Vec<f32> {
    let (values, rest) = bytes.as_chunks::<4>();
    assert!(rest.is_empty());
    values.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// Creates an item that asks for the embedding of a text of `bytes` bytes.
pub(crate) fn embed_item(bytes: usize, normalize: Option<bool>, truncate: bool) -> Item {
    let truncate = truncate.then_some(Side::Right);
    let text = TextOperation { truncate, ..TextOperation::default() };
    let output = TextOutput::Embedding { normalize, dimensions: None };
    Item {
        payload_bytes: u32::try_from(bytes).unwrap(),
        operation: Operation::Text { text, output },
    }
}

/// The answer to one text.
pub(crate) type Answer = Result<Embedded, Rejection>;

impl Supervisor {
    /// Starts the worker without a handshake.
    pub(crate) fn start() -> Self {
        Self::start_with(&mut Command::new(WORKER))
    }

    /// Starts a command that is or becomes the worker. Adds its arguments and descriptors.
    pub(crate) fn start_with(command: &mut Command) -> Self {
        let state = tempfile::tempdir().unwrap();
        let layout = Layout::new(state.path());
        fs::create_dir_all(layout.versions()).unwrap();
        fs::create_dir_all(layout.compiled_root()).unwrap();
        fs::create_dir_all(layout.generations(&MODEL.parse().unwrap())).unwrap();
        let page = ControlPage::create().unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(TIMEOUT)).unwrap();
        let (terminations, orders) = io::pipe().unwrap();
        let passed = vec![
            FdMapping { parent_fd: theirs.into(), child_fd: 3 },
            FdMapping { parent_fd: page.read_only().unwrap(), child_fd: 4 },
            FdMapping { parent_fd: terminations.into(), child_fd: 5 },
        ];
        let child = command
            .args(["serve", "--worker", "0", "--cpu", &cpu().to_string()])
            .env("ORT_DISABLE_TELEMETRY", "1")
            // As the supervisor sets them: memory is released when a version is dropped.
            .env("MALLOC_MMAP_THRESHOLD_", "262144")
            .env("MALLOC_TRIM_THRESHOLD_", "2097152")
            .stdout(Stdio::null())
            .fd_mappings(passed)
            .unwrap()
            .spawn()
            .unwrap();
        // Drop the command's copies of the descriptors, or a worker's exit would go unnoticed.
        *command = Command::new("true");
        Self {
            child,
            page,
            layout,
            socket: Some(ours),
            _orders: orders,
            frame: Frame::default(),
            last_id: 0,
            helper_cpus: Vec::new(),
            _state: state,
        }
    }

    /// Lets the worker spread every group over these CPUs as well.
    pub(crate) fn set_helper_cpus(&mut self, helper_cpus: Vec<u16>) {
        self.helper_cpus = helper_cpus;
    }

    /// Starts a worker and waits until it serves the model `name` as generation 1.
    pub(crate) fn serving(name: &str) -> Self {
        let mut supervisor = Self::start();
        supervisor.commit(1, name);
        supervisor.wait_until_ready();
        supervisor
    }

    /// Greets the worker and waits until it serves generation 1. Returns whether it uses the
    /// compiled form, and the loading time.
    pub(crate) fn wait_until_ready(&mut self) -> (bool, Duration) {
        self.greet(&onnxruntime(), None);
        let loaded = self.expect_loaded(1);
        assert_eq!(self.receive().1, FromWorker::Ready);
        loaded
    }

    /// Receives the worker's Hello and sends Welcome.
    pub(crate) fn greet(&mut self, onnxruntime: &Path, admin_socket: Option<NamedSocket>) {
        let hello = FromWorker::Hello { build_id: BUILD_ID.into(), pinned: Ok(cpu()) };
        assert_eq!(self.receive(), (0, hello));
        let nowhere = NamedSocket { path: "/nowhere".into(), device: 0, inode: 0 };
        let welcome = Welcome {
            onnxruntime: onnxruntime.into(),
            state_dir: self.layout.root().into(),
            models: vec![ModelSlot { name: MODEL.parse().unwrap(), slot: 5 }],
            admin_socket: admin_socket.unwrap_or(nowhere),
            helper_cpus: self.helper_cpus.clone(),
        };
        self.send(&ToWorker::Welcome(welcome), &[]);
    }

    /// Commits a generation of the model `name`, staged under that name.
    pub(crate) fn commit(&self, generation: Generation, name: &str) {
        let version = self.stage(name);
        self.commit_version(generation, &version);
    }

    /// Links a directory's files as the compiled forms of a version.
    pub(crate) fn link_compiled(&self, version: &str, compiled: &Path) {
        link_tree(compiled, &self.layout.compiled(version));
    }

    /// Stages the model `name` as a version of that name.
    pub(crate) fn stage(&self, name: &str) -> String {
        let version = name.replace('/', "-");
        let dir = self.layout.version(&version);
        if !dir.exists() {
            link_tree(&model(name), &dir);
        }
        version
    }

    /// Commits a generation, whose version need not exist.
    pub(crate) fn commit_version(&self, generation: Generation, version: &str) {
        let facts = Facts {
            dimension: 32,
            max_tokens: 256,
            pooling: PoolingMode::Mean.into(),
            normalize: true,
            ..Facts::new(Task::Embed)
        };
        let configured_source = "/".parse().unwrap();
        let record = Record { version: version.into(), configured_source, facts, drift: None };
        let path = self.layout.generation(&MODEL.parse().unwrap(), generation);
        fs::write(path, serde_json::to_vec(&record).unwrap()).unwrap();
        self.page.commit(5, generation);
    }

    /// Unloads the model.
    pub(crate) fn unload(&self) {
        self.page.unload(5);
    }

    /// Expects the next message to report this generation as loaded. Returns whether it is the
    /// compiled form, and the loading time.
    pub(crate) fn expect_loaded(&mut self, expected: Generation) -> (bool, Duration) {
        match self.receive() {
            (0, FromWorker::Loaded { slot: 5, generation, load_micros, compiled, costs: _ })
                if generation == expected =>
            {
                (compiled, Duration::from_micros(load_micros))
            }
            other => panic!("{other:?} instead of generation {expected}"),
        }
    }

    /// Requests the model `name` ahead of a commit.
    pub(crate) fn load_ahead(&mut self, name: &str) {
        let version = self.stage(name);
        self.load_version_ahead(&version);
    }

    /// Requests a version ahead of a commit. It need not exist.
    pub(crate) fn load_version_ahead(&mut self, version: &str) {
        self.send(&ToWorker::Load { slot: 5, version: version.to_owned() }, &[]);
    }

    /// Returns a version's directory.
    pub(crate) fn version_dir(&self, version: &str) -> PathBuf {
        self.layout.version(version)
    }

    /// Sends the texts as one group.
    pub(crate) fn send_texts(&mut self, texts: &[&str]) {
        let item = |text: &&str| embed_item(text.len(), None, true);
        self.send_items(texts, texts.iter().map(item).collect());
    }

    /// Sends the texts as one group of these items.
    pub(crate) fn send_items(&mut self, texts: &[&str], items: Vec<Item>) {
        self.send_bytes(texts.concat().as_bytes(), items);
    }

    /// Sends a group of items with this payload.
    pub(crate) fn send_bytes(&mut self, payload: &[u8], items: Vec<Item>) {
        let wide = !self.helper_cpus.is_empty();
        self.send(&ToWorker::Run { slot: 5, items, wide }, payload);
    }

    /// Sends a group of one item and returns its raw answer.
    pub(crate) fn answer_of(
        &mut self,
        payload: &[u8],
        operation: Operation,
    ) -> Result<Raw, Rejection> {
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        self.send_bytes(payload, vec![Item { payload_bytes, operation }]);
        self.raw_answers(1).remove(0)
    }

    /// Receives the raw answers to the last group of `count` items.
    pub(crate) fn raw_answers(&mut self, count: usize) -> Vec<Result<Raw, Rejection>> {
        let mut answers: Vec<Option<Result<Raw, Rejection>>> = vec![None; count];
        while answers.contains(&None) {
            match self.receive().1 {
                FromWorker::Rejected { items, reason } => items.iter().for_each(|&item| {
                    answers[usize::try_from(item).unwrap()] = Some(Err(reason.clone()));
                }),
                FromWorker::Answered(batch) => {
                    let (together, mut rest) = (batch.items.len(), &self.frame.payload[..]);
                    for AnsweredItem { item, tokens, bytes, outputs } in batch.items {
                        let (own, others) = rest.split_at(usize::try_from(bytes).unwrap());
                        rest = others;
                        let raw = Raw { tokens, bytes: own.to_vec(), outputs, together };
                        answers[usize::try_from(item).unwrap()] = Some(Ok(raw));
                    }
                    assert!(rest.is_empty());
                }
                other => panic!("{other:?} is not an answer"),
            }
        }
        answers.into_iter().flatten().collect()
    }

    /// Receives the answers to the last group of `count` texts. Each must arrive exactly once.
    pub(crate) fn answers(&mut self, count: usize) -> Vec<Answer> {
        let mut answers: Vec<Option<Answer>> = vec![None; count];
        while answers.contains(&None) {
            let (id, message) = self.receive();
            assert_eq!(id, self.last_id, "{message:?}");
            for (item, answer) in self.unpack(message) {
                let slot = &mut answers[usize::try_from(item).unwrap()];
                assert_eq!(slot, &None, "item {item} was answered twice");
                *slot = Some(answer);
            }
        }
        answers.into_iter().flatten().collect()
    }

    fn unpack(&self, message: FromWorker) -> Vec<(u32, Answer)> {
        match message {
            FromWorker::Rejected { items, reason } => {
                items.into_iter().map(|item| (item, Err(reason.clone()))).collect()
            }
            FromWorker::Answered(batch) => {
                let (generation, mut rest) = (batch.generation, &self.frame.payload[..]);
                let mut answers = Vec::new();
                for item in batch.items {
                    let (own, others) = rest.split_at(usize::try_from(item.bytes).unwrap());
                    rest = others;
                    let embedding = floats(own);
                    let embedded = Embedded { generation, tokens: item.tokens, embedding };
                    answers.push((item.item, Ok(embedded)));
                }
                assert!(rest.is_empty());
                answers
            }
            other => panic!("{other:?} is not an answer"),
        }
    }

    /// Sends the texts as one group and returns their embeddings.
    pub(crate) fn embed(&mut self, texts: &[&str]) -> Vec<Embedded> {
        self.send_texts(texts);
        self.answers(texts.len()).into_iter().map(Result::unwrap).collect()
    }

    /// Sends a message with the next id.
    pub(crate) fn send(&mut self, message: &ToWorker, payload: &[u8]) {
        self.last_id += 1;
        let control = message::encode(message).unwrap();
        let mut socket = self.socket.as_ref().unwrap();
        frame::write(&mut socket, Direction::ToWorker, self.last_id, &control, &[payload]).unwrap();
    }

    /// Receives the next message.
    pub(crate) fn receive(&mut self) -> (u64, FromWorker) {
        let mut socket = self.socket.as_ref().unwrap();
        assert!(self.frame.read(&mut socket, Direction::FromWorker).unwrap(), "the worker exited");
        (self.frame.id, message::decode(&self.frame.control).unwrap())
    }

    /// Closes the socket, which is how a worker is stopped.
    pub(crate) fn close_socket(&mut self) {
        self.socket = None;
    }

    /// Waits until all processes have closed the worker's end of the socket.
    pub(crate) fn wait_for_socket_end(&mut self) {
        let mut socket = self.socket.as_ref().unwrap();
        while self.frame.read(&mut socket, Direction::FromWorker).unwrap() {}
    }

    /// Waits up to a second for the child to exit.
    pub(crate) fn wait_for_exit(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < Duration::from_secs(1), "the worker is still running");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies a directory tree with hard links. Symbolic links would lead out of the state directory,
/// which a worker may not read. Hard links also let workers share the files' pages.
fn link_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            link_tree(&entry.path(), &target);
        } else if fs::hard_link(entry.path(), &target).is_err() {
            fs::copy(entry.path(), &target).unwrap();
        }
    }
}

/// Returns the CPU to pin workers to, one that this process may use.
pub(crate) fn cpu() -> u16 {
    *all_cpus().last().unwrap()
}

/// Returns the CPUs that this process may use.
pub(crate) fn all_cpus() -> Vec<u16> {
    let allowed = sched_getaffinity(Pid::from_raw(0)).unwrap();
    let cpus = (0..CpuSet::count()).filter(|&cpu| allowed.is_set(cpu).unwrap());
    cpus.map(|cpu| u16::try_from(cpu).unwrap()).collect()
}
