//! Errors as gRPC statuses, and the HTTP statuses under which metrics count calls.
//!
//! An oversized message is `OUT_OF_RANGE`, so that `RESOURCE_EXHAUSTED` always means the call can
//! be retried.

use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use onnxd_engine::{EngineError, ErrorKind, engine::memory::OutOfMemory};
use tonic::{Code, Status};

use crate::transport::error::TransportError;

/// The HTTP status under which each code is counted. The first match wins.
const COUNTED: [(u16, Code); 14] = [
    (400, Code::InvalidArgument),
    (401, Code::Unauthenticated),
    (403, Code::PermissionDenied),
    (404, Code::NotFound),
    (504, Code::DeadlineExceeded),
    (413, Code::OutOfRange),
    (424, Code::FailedPrecondition),
    (429, Code::ResourceExhausted),
    (499, Code::Cancelled),
    (500, Code::Internal),
    (500, Code::Unknown),
    (500, Code::DataLoss),
    (501, Code::Unimplemented),
    (503, Code::Unavailable),
];

/// Converts an engine error.
pub(super) fn engine(error: EngineError) -> Status {
    let code = match error.kind() {
        ErrorKind::Empty | ErrorKind::Invalid | ErrorKind::Tokenizer => Code::InvalidArgument,
        ErrorKind::TooLarge => Code::OutOfRange,
        ErrorKind::NotFound | ErrorKind::Unloaded => Code::NotFound,
        ErrorKind::WrongTask | ErrorKind::Failed => Code::FailedPrecondition,
        ErrorKind::Overloaded => Code::ResourceExhausted,
        ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Timeout => Code::DeadlineExceeded,
        ErrorKind::Internal => Code::Internal,
    };
    status(code, error.message(), error.retry_after())
}

/// Converts the error of a call that did not reach its service.
pub(super) fn transport(error: TransportError) -> Status {
    let code = match &error {
        TransportError::Unauthorized => Code::Unauthenticated,
        TransportError::BodyTooLarge { .. }
        | TransportError::DecompressedTooLarge { .. }
        | TransportError::OutOfMemory(OutOfMemory::TooLarge { .. }) => Code::OutOfRange,
        TransportError::BodyTimeout(_) => Code::DeadlineExceeded,
        TransportError::IncompleteBody(_)
        | TransportError::InvalidCompression(_)
        | TransportError::Host(_) => Code::InvalidArgument,
        TransportError::UnsupportedEncoding => Code::Unimplemented,
        TransportError::OutOfMemory(OutOfMemory::UsedUp)
        | TransportError::DecompressionBusy { .. } => Code::ResourceExhausted,
        TransportError::Panicked => Code::Internal,
    };
    status(code, error.to_string(), error.retry_after())
}

fn status(code: Code, message: String, retry_after: Option<Duration>) -> Status {
    let mut status = Status::new(code, message);
    if let Some(pause) = retry_after {
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        status.metadata_mut().insert("retry-after-ms", millis.into());
    }
    status
}

/// Returns the status under which a response is counted. Headers without `grpc-status` began a
/// successful response.
pub(super) fn counted(headers: &HeaderMap) -> StatusCode {
    let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    let known = COUNTED.iter().find(|(_, known)| Some(*known) == code);
    match (code, known) {
        (None | Some(Code::Ok), _) => StatusCode::OK,
        (_, Some((status, _))) => {
            StatusCode::from_u16(*status).expect("the table has valid statuses")
        }
        (_, None) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Response};
    use onnxd_engine::{
        dispatch::gather::GatherError, engine::tensors::TensorError, models::update::NotServed,
    };
    use onnxd_proto::{
        domain::{RefusalKind, Task},
        wire::operation::Rejection,
    };

    use super::*;

    fn wrong_task() -> EngineError {
        let (model, wanted) = ("m".into(), "embed".into());
        EngineError::WrongTask { model, task: Task::Rerank, wanted }
    }

    #[test]
    fn errors_map_to_their_code_and_counted_status() {
        let rejected = |rejection| EngineError::from(GatherError::Rejected(rejection));
        for (error, code, counted) in [
            (TensorError::NoInputs.into(), Code::InvalidArgument, 400),
            (rejected(Rejection::Tensors("x".into())), Code::InvalidArgument, 400),
            (rejected(Rejection::Tokenizer("x".into())), Code::InvalidArgument, 400),
            (TensorError::TooLarge { bytes: 1 }.into(), Code::OutOfRange, 413),
            (NotServed::Unloaded("m".into()).into(), Code::NotFound, 404),
            (NotServed::Failed(RefusalKind::Load.because("x")).into(), Code::Unavailable, 503),
            (EngineError::NotLoaded, Code::Unavailable, 503),
            (wrong_task(), Code::FailedPrecondition, 424),
            (rejected(Rejection::Inference("x".into())), Code::FailedPrecondition, 424),
            (OutOfMemory::UsedUp.into(), Code::ResourceExhausted, 429),
            (OutOfMemory::TooLarge { bytes: 2, limit: 1 }.into(), Code::OutOfRange, 413),
            (GatherError::Timeout(Duration::ZERO).into(), Code::DeadlineExceeded, 504),
            (GatherError::Stopped.into(), Code::Unavailable, 503),
            (GatherError::Poisonous.into(), Code::Internal, 500),
        ] {
            let message = error.message();
            let made = engine(error);
            assert_eq!((made.code(), made.message()), (code, message.as_str()));
            let response: Response<Body> = made.into_http();
            assert_eq!(super::counted(response.headers()).as_u16(), counted, "{message}");
        }
        for (error, code, counted) in [
            (TransportError::Unauthorized, Code::Unauthenticated, 401),
            (TransportError::BodyTimeout(Duration::ZERO), Code::DeadlineExceeded, 504),
            (TransportError::DecompressedTooLarge { max: 1 }, Code::OutOfRange, 413),
            (TransportError::Panicked, Code::Internal, 500),
        ] {
            let made = transport(error);
            assert_eq!(made.code(), code);
            let response: Response<Body> = made.into_http();
            assert_eq!(super::counted(response.headers()).as_u16(), counted, "{code}");
        }
        assert_eq!(super::counted(&HeaderMap::new()), StatusCode::OK);
    }

    #[test]
    fn overload_carries_a_retry_delay() {
        let retry_after = Duration::from_millis(1500);
        let error = GatherError::Overloaded { limit: 1, retry_after };
        let status = engine(error.into());
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get("retry-after-ms").unwrap(), "1500");
    }
}
