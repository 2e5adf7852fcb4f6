//! Errors, as gRPC has them; and what HTTP would have called them, which is what metrics count.
//!
//! A message that is too long is `OUT_OF_RANGE`, so that `RESOURCE_EXHAUSTED` always means that the
//! same call may be made again later.

use axum::http::{HeaderMap, StatusCode};
use tonic::{Code, Status};

use crate::api::error::ApiError;

/// Which status of HTTP is which code. The first of each code is what it is counted as.
const TABLE: [(u16, Code); 16] = [
    (400, Code::InvalidArgument),
    (422, Code::InvalidArgument),
    (401, Code::Unauthenticated),
    (403, Code::PermissionDenied),
    (404, Code::NotFound),
    (504, Code::DeadlineExceeded),
    (408, Code::DeadlineExceeded),
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

/// An error as gRPC has it.
pub(super) fn status(error: ApiError) -> Status {
    let known = TABLE.iter().find(|(status, _)| *status == error.status.as_u16());
    let code = known.map_or(Code::Internal, |(_, code)| *code);
    let mut status = Status::new(code, error.message);
    if let Some(pause) = error.retry_after {
        let millis = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
        status.metadata_mut().insert("retry-after-ms", millis.into());
    }
    status
}

/// What the answer with these headers is counted as. Without a status there it has begun well.
pub(super) fn counted(headers: &HeaderMap) -> StatusCode {
    let code = headers.get(Status::GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes()));
    let known = TABLE.iter().find(|(_, known)| Some(*known) == code);
    match (code, known) {
        (None | Some(Code::Ok), _) => StatusCode::OK,
        (_, Some((status, _))) => StatusCode::from_u16(*status).expect("the table has statuses"),
        (_, None) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use axum::{body::Body, http::Response};

    use super::*;
    use crate::api::error::Kind;

    fn of(status: u16) -> Status {
        let error = ApiError::new(Kind::Validation, "why");
        crate::api::grpc::status::status(error.with_status(StatusCode::from_u16(status).unwrap()))
    }

    #[test]
    fn each_error_has_the_code_that_clients_expect_and_is_counted_as_what_it_was() {
        for (status, code, counted) in [
            (400, Code::InvalidArgument, 400),
            (422, Code::InvalidArgument, 400),
            (401, Code::Unauthenticated, 401),
            (403, Code::PermissionDenied, 403),
            (404, Code::NotFound, 404),
            (408, Code::DeadlineExceeded, 504),
            (504, Code::DeadlineExceeded, 504),
            (413, Code::OutOfRange, 413),
            (424, Code::FailedPrecondition, 424),
            (429, Code::ResourceExhausted, 429),
            (500, Code::Internal, 500),
            (503, Code::Unavailable, 503),
        ] {
            let made = of(status);
            assert_eq!((made.code(), made.message()), (code, "why"), "{status}");
            let response: Response<Body> = made.into_http();
            assert_eq!(
                crate::api::grpc::status::counted(response.headers()).as_u16(),
                counted,
                "{status}"
            );
        }
        assert_eq!(crate::api::grpc::status::counted(&HeaderMap::new()), StatusCode::OK);
    }

    #[test]
    fn a_busy_server_says_when_to_come_back() {
        let retry_after = Some(Duration::from_millis(1500));
        let error = ApiError { retry_after, ..ApiError::new(Kind::Overloaded, "busy") };
        let status = crate::api::grpc::status::status(error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get("retry-after-ms").unwrap(), "1500");
    }
}
