//! Kinds of sources. Each finds out what a source contains and opens its files; [`crate::download`]
//! does the rest.

mod answer;
mod bucket;
mod checksums;
mod hub;
mod mlflow;
mod oci;
mod source;
mod web;

use onnxd_proto::domain::{RemoteUri, Scheme, fetch::FetchError};

pub(crate) use self::{
    answer::{Opened, Validators},
    source::{File, KnownSnapshot, Snapshot, Source, UnpackTarget},
};
use crate::{client::Client, environment::Environment};

/// Creates the source of a URI. Reads credentials.
///
/// # Errors
/// The environment lacks an address or contains an invalid one.
pub(crate) fn of(
    uri: &RemoteUri,
    client: Client,
    environment: &Environment,
) -> Result<Box<dyn Source>, FetchError> {
    Ok(match uri.scheme() {
        Scheme::Https | Scheme::Http => Box::new(web::Web::new(uri, client, environment)?),
        Scheme::S3 | Scheme::Gs => Box::new(bucket::Bucket::new(uri, client, environment)?),
        Scheme::Hf => Box::new(hub::Hub::new(uri, client, environment)?),
        Scheme::Oci => Box::new(oci::Registry::new(uri, client, environment)?),
        Scheme::Mlflow => Box::new(mlflow::Mlflow::new(uri, client, environment)?),
    })
}
