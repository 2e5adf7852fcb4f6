//! With `--sources`: uploads versions in the worst order to a web server and to a polled directory,
//! file by file with pauses, and follows what the server commits. A version must consist of the files
//! of one upload. Called by [`world`](crate::world) and `main`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use e2e::{
    disk::Disk, fixtures, home::Home, kinds::Kind, launch::Builder, random::Random, web::Web,
};

use crate::{
    models::{self, Content, MODELS, Model},
    world::World,
};

/// A model on the web server, and one in a polled directory.
pub(crate) const UPLOADED: [Model; 2] = [
    Model { name: "remote", prefix: "", kinds: &[Kind::Embed] },
    Model { name: "folder", prefix: "", kinds: &[Kind::Embed] },
];
/// The model comes first: until its checksums arrive, it is mixed with the files of the one before.
const ORDER: [&str; 2] = ["model.onnx", "config.json"];
/// Longest pauses between two writes and after an upload.
const WRITE_PAUSE_MILLIS: u64 = 300;
const UPLOAD_PAUSE_MILLIS: u64 = 3000;
/// A complete upload serves within this time. Polls of an incomplete directory come later and later.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The web server of a run, whose files are in the directory of the models.
pub(crate) fn serve(home: &Home) -> Web {
    for model in UPLOADED {
        let folder = folder(home, model);
        fixtures::replace_model(&MODELS[0].directory(Content::A), &folder);
        fixtures::write_checksums(&folder);
    }
    Web::start(&home.models())
}

/// Adds the models to a server, which polls them every second.
pub(crate) fn add(mut builder: Builder, web: &Web) -> Builder {
    let home = builder.directories();
    for model in UPLOADED {
        let name = model.name;
        let source = match name {
            "remote" => web.uri(name),
            _ => folder(&home, model).display().to_string(),
        };
        for argument in [
            format!("--model={name}={source}"),
            format!("--preload={name}"),
            format!("--poll={name}=1"),
        ] {
            builder = builder.argument(&argument);
        }
    }
    builder
}

fn folder(home: &Home, model: Model) -> PathBuf {
    home.models().join(model.name)
}

/// The digest of an upload's model file, and its content.
#[derive(Debug)]
struct Upload {
    model: String,
    content: Content,
}

/// Uploads versions of a model until the run stops.
pub(crate) async fn run(world: Arc<World>, model: Model) {
    let mut random = Random::new(world.options.seed ^ u64::from(model.name.as_bytes()[0]) << 40);
    let (home, to) = (Arc::clone(world.server.home()), folder(world.server.home(), model));
    // By the digest of `config.json`, which is different in each upload.
    let mut uploads = BTreeMap::new();
    let initial = MODELS[0].directory(Content::A);
    uploads.insert(sha256(&initial, "config.json"), upload_of(&initial, Content::A));
    let status = world.control.status().await.model(model.name).clone();
    let (mut before, mut number) = (status.generation, 0);
    // When the generation was seen last: a rollback may follow at any time.
    let mut since = world.now();
    commit(&world, model, &uploads, Duration::ZERO, before..=before);
    while !world.stops() {
        number += 1;
        let content = Content::ALL[usize::try_from(random.below(2)).unwrap_or_default()];
        let from = models::unique(&home, "upload");
        fixtures::variant(
            &MODELS[0].directory(content),
            &from,
            &format!("{}-{number}", model.name),
        );
        uploads.insert(sha256(&from, "config.json"), upload_of(&from, content));
        upload(&from, &to, &mut random).await;
        let _ = fs::remove_dir_all(&from);
        let complete = world.now();
        world.note(&format!("{}: uploaded {number} with content {content:?}", model.name));
        let deaths = world.ledger().event_counts().deaths;
        loop {
            let asked = world.now();
            let status = world.control.status().await.model(model.name).clone();
            if status.generation > before {
                commit(&world, model, &uploads, since, before + 1..=status.generation);
                (before, since) = (status.generation, asked);
                break;
            }
            since = asked;
            if world.stops() {
                return;
            }
            if world.now() - complete > COMMIT_TIMEOUT {
                let error = status.source_state.and_then(|state| state.error);
                let what = format!("{}: upload {number} does not serve: {error:?}", model.name);
                // The deaths of workers refuse a version, or roll it back.
                match world.ledger().event_counts().deaths == deaths {
                    true => world.violated(&what),
                    false => world.note(&what),
                }
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        pause(&mut random, UPLOAD_PAUSE_MILLIS).await;
    }
}

fn upload_of(from: &Path, content: Content) -> Upload {
    Upload { model: sha256(from, "model.onnx"), content }
}

/// Records commits, and checks that each version has the files of one upload.
fn commit(
    world: &World,
    model: Model,
    uploads: &BTreeMap<String, Upload>,
    start: Duration,
    generations: RangeInclusive<u64>,
) {
    let disk = Disk::new(world.server.home());
    for (generation, version) in disk.generations(model.name) {
        if !generations.contains(&generation) {
            continue;
        }
        let folder = disk.version(&version);
        let upload = uploads.get(&sha256(&folder, "config.json"));
        let is_whole = upload.is_some_and(|upload| upload.model == sha256(&folder, "model.onnx"));
        let now = world.now();
        let mut ledger = world.ledger();
        if !is_whole {
            ledger.violated(format!("{}: version {version:.8} mixes two uploads", model.name));
        }
        ledger.serves(&version, now);
        *ledger.faults.entry("upload").or_default() += 1;
        let content = upload.map(|upload| upload.content.name());
        let live = ledger.history(model.name);
        let found = live.committed(start, generation..=generation, &version, content);
        ledger.found(model.name, found);
    }
}

/// Overwrites the files of a source in place, the checksums last.
async fn upload(from: &Path, to: &Path, random: &mut Random) {
    let _ = fs::write(to.join("left-over.tmp"), "of an upload");
    for name in ORDER {
        let bytes = fs::read(from.join(name)).expect("a file of the model");
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        let mut file = File::create(to.join(name)).expect("a file of the source");
        for part in [first, rest] {
            file.write_all(part).expect("the source can be written");
            pause(random, WRITE_PAUSE_MILLIS).await;
        }
    }
    let _ = fs::remove_file(to.join("left-over.tmp"));
    pause(random, WRITE_PAUSE_MILLIS).await;
    fixtures::write_checksums(to);
}

async fn pause(random: &mut Random, millis_max: u64) {
    tokio::time::sleep(Duration::from_millis(random.below(millis_max))).await;
}

/// Returns the SHA-256 of a file; empty if it does not exist.
fn sha256(folder: &Path, name: &str) -> String {
    let output = Command::new("sha256sum").arg(name).current_dir(folder).output();
    let text = String::from_utf8(output.expect("sha256sum").stdout).expect("text");
    text.split(' ').next().unwrap_or_default().to_owned()
}
