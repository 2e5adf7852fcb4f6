//! Refuses requests beyond the limits of [`onnxd_proto::search`]. Called by [`crate::serving`].

use onnxd_proto::{
    limits::TEXT_BYTES_MAX,
    search::{
        BATCH_MAX, COLLECTION_NAME_BYTES_MAX, CONDITIONS_MAX, Document, DocumentId,
        FILTER_DEPTH_MAX, Filter, ID_BYTES_MAX, IndexError, IndexErrorKind, PAYLOAD_BYTES_MAX,
        PayloadChange, Selection, ToIndex,
    },
};

/// Checks a request.
///
/// # Errors
/// The request exceeds a limit, which the error names.
pub(crate) fn check(message: &ToIndex) -> Result<(), IndexError> {
    match message {
        ToIndex::Create(name, _) => check_name(name),
        ToIndex::SetAliases(_, added) => added.iter().try_for_each(|(alias, _)| check_name(alias)),
        ToIndex::Upsert { documents, .. } | ToIndex::UpsertSparse { documents, .. } => {
            check_count(documents.len())?;
            documents.iter().try_for_each(check_document)
        }
        ToIndex::Embedded { documents, .. } | ToIndex::EmbeddedSparse { documents, .. } => {
            check_count(documents.len())
        }
        ToIndex::Delete { which, .. } => check_selection(which),
        ToIndex::ChangePayload { which, change, .. } => {
            check_selection(which)?;
            match change {
                PayloadChange::Set(payload) | PayloadChange::Replace(payload) => {
                    check_payload(payload)
                }
                PayloadChange::Remove(_) => Ok(()),
            }
        }
        ToIndex::Search { query, .. } | ToIndex::SearchSparse { query, .. } => {
            check_filter(&query.filter)
        }
        ToIndex::Scroll { filter, .. } | ToIndex::Count { filter, .. } => check_filter(filter),
        ToIndex::Retrieve { ids, .. } => check_count(ids.len()),
        ToIndex::List
        | ToIndex::Names
        | ToIndex::Describe(_)
        | ToIndex::Configure(..)
        | ToIndex::Drop(_)
        | ToIndex::Unembedded { .. }
        | ToIndex::Keep { .. }
        | ToIndex::Discard { .. }
        | ToIndex::Reuse { .. }
        | ToIndex::Committed { .. } => Ok(()),
    }
}

fn check_name(name: &str) -> Result<(), IndexError> {
    if name.is_empty() || name.len() > COLLECTION_NAME_BYTES_MAX {
        let message = format!(
            "a name of {} bytes: names of collections have 1 to {COLLECTION_NAME_BYTES_MAX}",
            name.len()
        );
        return Err(IndexErrorKind::Invalid.because(message));
    }
    Ok(())
}

fn check_count(count: usize) -> Result<(), IndexError> {
    if count > BATCH_MAX {
        let message = format!("{count} documents in one request; send at most {BATCH_MAX} at once");
        return Err(IndexErrorKind::Full.because(message));
    }
    Ok(())
}

fn check_document(document: &Document) -> Result<(), IndexError> {
    check_payload(&document.payload)?;
    if let DocumentId::Text(id) = &document.id
        && id.len() > ID_BYTES_MAX
    {
        let message = format!("an id of {} bytes; at most {ID_BYTES_MAX} are allowed", id.len());
        return Err(IndexErrorKind::Invalid.because(message));
    }
    if document.text.len() > TEXT_BYTES_MAX {
        let length = document.text.len();
        let message =
            format!("a text of {length} bytes; split it: at most {TEXT_BYTES_MAX} are allowed");
        return Err(IndexErrorKind::Full.because(message));
    }
    Ok(())
}

fn check_payload(payload: &str) -> Result<(), IndexError> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        let length = payload.len();
        let message =
            format!("a payload of {length} bytes; at most {PAYLOAD_BYTES_MAX} are allowed");
        return Err(IndexErrorKind::Full.because(message));
    }
    Ok(())
}

fn check_selection(which: &Selection) -> Result<(), IndexError> {
    match which {
        Selection::Ids(ids) => check_count(ids.len()),
        Selection::Matching(filter) => check_filter(filter),
    }
}

fn check_filter(filter: &Filter) -> Result<(), IndexError> {
    if !filter.is_within_limits() {
        let message = format!(
            "the filter has more than {CONDITIONS_MAX} conditions and values, or more than {FILTER_DEPTH_MAX} levels"
        );
        return Err(IndexErrorKind::Invalid.because(message));
    }
    Ok(())
}
