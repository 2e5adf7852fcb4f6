//! `/collections/{collection}/documents`: exports and imports documents as JSON lines, one document
//! a line: `{"id": 1, "text": "…", "payload": {…}}`.

use std::{io, sync::Arc};

use axum::{
    body::Body,
    extract::{Path, State},
    http::{Request, Response, header},
    response::IntoResponse,
};
use bytes::Bytes;
use futures_util::stream;
use onnxd_engine::RequestContext;
use onnxd_proto::search::{DocumentId, Filter, Hit};
use onnxd_search::{Content, NewDocument, Search};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};
use utoipa::ToSchema;

use crate::{
    api::{
        app::App,
        error::{Class, Fault, axum_json},
        qdrant::ids::PointId,
        request::{BYTE_ORDER_MARK, context},
        tei::error::{TeiErrors, respond},
    },
    transport::bodies::read_body,
};

const CONTENT_TYPE: &str = "application/x-ndjson";
/// Documents that are read or stored at once.
const PAGE: usize = 256;

/// A document of an import.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ImportedDocument {
    id: PointId,
    text: String,
    /// The client's own fields.
    #[serde(default)]
    #[schema(value_type = Object)]
    payload: Map<String, Value>,
}

/// A document of an export.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct ExportedDocument {
    id: PointId,
    text: String,
    #[schema(value_type = Object)]
    payload: Box<RawValue>,
}

/// What an import stored.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Imported {
    /// Documents added or replaced.
    documents: u64,
    /// The version that embedded them.
    version: String,
}

impl ExportedDocument {
    fn new(Hit { id, text, payload, .. }: Hit) -> Result<Self, serde_json::Error> {
        let payload = RawValue::from_string(payload.unwrap_or_else(|| "{}".to_owned()))?;
        Ok(Self { id: id.into(), text: text.unwrap_or_default(), payload })
    }
}

/// Exports all documents of a collection in the order of their ids, one JSON object a line.
#[utoipa::path(
    get, path = "/collections/{collection}/documents", tag = "search",
    params(("collection" = String, Path, description = "The collection's name or alias")),
    responses((status = 200, description = "JSON lines", body = ExportedDocument, content_type = CONTENT_TYPE), TeiErrors)
)]
pub(crate) async fn export(State(app): State<App>, Path(name): Path<String>) -> Response<Body> {
    respond(async {
        let search = app.search()?;
        let _call = search.enter()?;
        // An alias may name another collection before the last page.
        let (name, _) = search.settings(&name).await?;
        // The first page decides the status.
        let first = page(search, &name, None).await?;
        let pages = Pages { search: Arc::clone(search), name, ready: Some(first), next: None };
        let body = Body::from_stream(stream::unfold(pages, Pages::following));
        Ok(([(header::CONTENT_TYPE, CONTENT_TYPE)], body).into_response())
    })
    .await
}

/// The pages of an export that are not sent yet.
struct Pages {
    search: Arc<Search>,
    name: String,
    /// A page that is read already.
    ready: Option<Page>,
    /// Where the page after it begins.
    next: Option<DocumentId>,
}

/// Documents as JSON lines, and the id of the next page.
type Page = (Bytes, Option<DocumentId>);

impl Pages {
    /// Returns the next page. An error breaks the connection, so that no client takes a part for the
    /// whole.
    async fn following(mut self) -> Option<(io::Result<Bytes>, Self)> {
        let read = match (self.ready.take(), self.next.take()) {
            (Some(ready), _) => Ok(ready),
            (None, Some(from)) => page(&self.search, &self.name, Some(from)).await,
            (None, None) => return None,
        };
        let bytes = match read {
            Ok((bytes, next)) => {
                self.next = next;
                Ok(bytes)
            }
            Err(fault) => {
                tracing::warn!(
                    collection = self.name,
                    reason = fault.message,
                    "an export broke off"
                );
                Err(io::Error::other(fault.message))
            }
        };
        Some((bytes, self))
    }
}

/// Returns a page of documents as JSON lines, and the id of the next page.
async fn page(search: &Search, name: &str, from: Option<DocumentId>) -> Result<Page, Fault> {
    let parts = (true, true, false);
    let (hits, next) = search.scroll(name, Filter::default(), (from, PAGE), parts).await?;
    let mut lines = Vec::new();
    for hit in hits {
        let write = ExportedDocument::new(hit)
            .and_then(|document| serde_json::to_writer(&mut lines, &document));
        write.map_err(|error| {
            Fault::new(Class::FAILED, format!("a payload is not JSON: {error}"))
        })?;
        lines.push(b'\n');
    }
    Ok((lines.into(), next))
}

/// Adds or replaces documents, one JSON object a line. Embeds their texts.
#[utoipa::path(
    post, path = "/collections/{collection}/documents", tag = "search",
    params(("collection" = String, Path, description = "The collection's name or alias")),
    request_body(content = ImportedDocument, content_type = CONTENT_TYPE),
    responses((status = 200, description = "All documents are stored", body = Imported), TeiErrors)
)]
pub(crate) async fn import(
    State(app): State<App>,
    Path(name): Path<String>,
    request: Request<Body>,
) -> Response<Body> {
    respond(async {
        let context = context(request.headers())?;
        let search = app.search()?;
        let _call = search.enter()?;
        let body = read_body(app.engine.memory(), request).await?;
        let documents = tokio::task::block_in_place(|| parse_lines(&body))?;
        let imported = store(search, &context, &name, documents).await?;
        Ok(axum_json(&serde_json::json!(imported)).into_response())
    })
    .await
}

async fn store(
    search: &Search,
    context: &RequestContext,
    name: &str,
    documents: Vec<NewDocument>,
) -> Result<Imported, Fault> {
    let of = documents.len();
    let mut imported = Imported { documents: 0, version: String::new() };
    let mut documents = documents.into_iter().peekable();
    // Without documents, this finds out whether the collection exists.
    loop {
        let some = documents.by_ref().take(PAGE).collect();
        let written = search.put(context, name, None, some).await.map_err(|error| {
            let mut fault = Fault::from(error);
            if imported.documents > 0 {
                let stored = imported.documents;
                fault.message.push_str(&format!(
                    "; the first {stored} of {of} documents are stored, send the others again"
                ));
            }
            fault
        })?;
        imported.documents += written.documents;
        imported.version = written.version;
        if documents.peek().is_none() {
            return Ok(imported);
        }
    }
}

/// Explains why a line is not a document.
fn explain(line: &[u8], number: usize, error: &serde_json::Error) -> String {
    let cause = match line.trim_ascii_start().first() {
        Some(b'[') => "it is a list".to_owned(),
        // The position within the line.
        _ => error.to_string().replace(" at line 1 column ", " at column "),
    };
    format!(
        "line {number} is not a document: {cause}; send one object a line, {{\"id\": 1, \"text\": \"…\", \"payload\": {{}}}}, without commas between them; curl keeps the line breaks of a file with --data-binary"
    )
}

fn parse_lines(body: &[u8]) -> Result<Vec<NewDocument>, Fault> {
    // Editors and exports of Windows programs write it. The lines are JSON, the file is not.
    let body = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    let lines = body.split(|byte| *byte == b'\n').zip(1..);
    let lines = lines.filter(|(line, _)| !line.trim_ascii().is_empty());
    let document = |(line, number): (&[u8], usize)| {
        let parsed: ImportedDocument = serde_json::from_slice(line)
            .map_err(|error| Fault::new(Class::Malformed, explain(line, number, &error)))?;
        let ImportedDocument { id, text, payload } = parsed;
        let id = id.into_document().map_err(|mut fault| {
            fault.message = format!("line {number}: {}", fault.message);
            fault
        })?;
        Ok(NewDocument { id, content: Content::Text(text), payload })
    };
    lines.map(document).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_parsed_and_a_wrong_one_is_named() {
        let lines = b"{\"id\": 1, \"text\": \"a\"}\n\n{\"id\": \"x\", \"text\": \"b\", \"payload\": {\"n\": 1}}\r\n";
        let documents = parse_lines(lines).unwrap();
        let ids: Vec<_> = documents.iter().map(|document| document.id.clone()).collect();
        assert_eq!(ids, [DocumentId::Number(1), DocumentId::Text("x".into())]);
        let marked = parse_lines(&[BYTE_ORDER_MARK, lines].concat()).unwrap();
        assert_eq!((marked.len(), &marked[0].id), (2, &ids[0]), "with a byte order mark");
        let wrong = parse_lines(b"{\"id\": 1, \"text\": \"a\"}\n{\"id\": 2}\n").unwrap_err();
        assert!(
            wrong.message.starts_with("line 2 is not a document: missing field `text`"),
            "{}",
            wrong.message
        );
        // As `curl -d @FILE` sends it.
        let joined =
            parse_lines(b"{\"id\": 1, \"text\": \"a\"}{\"id\": 2, \"text\": \"b\"}").unwrap_err();
        assert!(
            joined.message.contains("trailing characters at column 23; send one object a line"),
            "{}",
            joined.message
        );
        let list = parse_lines(b"\n [{\"id\": 1, \"text\": \"a\"}]").unwrap_err();
        assert!(
            list.message.starts_with("line 2 is not a document: it is a list; send one object"),
            "{}",
            list.message
        );
        let id = parse_lines(b"{\"id\": \"\", \"text\": \"a\"}").unwrap_err();
        assert_eq!(id.message, "line 1: an id has 0 bytes, 1 to 512 are allowed");
    }
}
