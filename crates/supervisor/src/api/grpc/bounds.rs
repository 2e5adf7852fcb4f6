//! Bounds what a message may cost in memory once decoded, judged by its bytes: two bytes can become
//! a whole list element. Raw tensors cost their own size, which the message limit bounds. Pure.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;

use crate::api::grpc::pb::{
    ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest,
    ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest, ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest,
};

/// Larger messages are encoded and decoded off the async thread, so that others do not wait.
pub(super) const INLINE_BYTES_MAX: usize = 256 * 1024;
/// Size limit of a message that asks for no inference.
pub(super) const CONTROL_BYTES_MAX: usize = 8 * 1024;
/// Size limit of an inference request, not counting raw tensors.
const TYPED_BYTES_MAX: usize = 8 << 20;
/// Maximum fields in an inference request, including those of inputs and their contents.
const FIELDS_MAX: usize = 1 << 18;

/// Field numbers in `proto/inference.proto`.
const INPUTS: u32 = 5;
const RAW_INPUT_CONTENTS: u32 = 7;
const CONTENTS: u32 = 5;

/// A message that clients send.
pub(crate) trait Bounded {
    /// Checks whether a message with these bytes may be decoded.
    ///
    /// # Errors
    /// The message is too large or malformed.
    fn check(message: &[u8]) -> Result<(), Status>;
}

macro_rules! control_messages {
    ($($message:ty),*) => {$(
        impl Bounded for $message {
            fn check(message: &[u8]) -> Result<(), Status> {
                if message.len() <= CONTROL_BYTES_MAX {
                    return Ok(());
                }
                let bytes = message.len();
                let text = format!("message has {bytes} bytes; the limit is {CONTROL_BYTES_MAX}");
                Err(Status::out_of_range(text))
            }
        }
    )*};
}

control_messages!(
    ModelConfigRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelStatisticsRequest,
    RepositoryIndexRequest,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
    ServerLiveRequest,
    ServerMetadataRequest,
    ServerReadyRequest
);

impl Bounded for ModelInferRequest {
    fn check(message: &[u8]) -> Result<(), Status> {
        let mut raw_bytes = 0;
        let mut fields = 0;
        walk(message, &mut fields, &mut |number, value, fields| match number {
            RAW_INPUT_CONTENTS => {
                raw_bytes += value.len();
                Ok(())
            }
            INPUTS => walk(value, fields, &mut |number, value, fields| match number {
                CONTENTS => walk(value, fields, &mut |_, _, _| Ok(())),
                _ => Ok(()),
            }),
            _ => Ok(()),
        })?;
        let typed_bytes = message.len().saturating_sub(raw_bytes);
        if typed_bytes > TYPED_BYTES_MAX {
            return Err(Status::out_of_range(format!(
                "message has {typed_bytes} bytes outside raw_input_contents; the limit is {TYPED_BYTES_MAX}. Send large tensors raw"
            )));
        }
        Ok(())
    }
}

/// Visits length-delimited fields.
type Visit<'v> = dyn FnMut(u32, &[u8], &mut usize) -> Result<(), Status> + 'v;

/// Visits the length-delimited fields of a message and counts all fields.
fn walk(mut message: &[u8], fields: &mut usize, visit: &mut Visit<'_>) -> Result<(), Status> {
    let malformed =
        |error: prost::DecodeError| Status::invalid_argument(format!("invalid message: {error}"));
    while message.has_remaining() {
        *fields += 1;
        if *fields > FIELDS_MAX {
            return Err(Status::out_of_range(format!(
                "message has more than {FIELDS_MAX} fields. Send large tensors raw"
            )));
        }
        let (number, kind) = decode_key(&mut message).map_err(malformed)?;
        if kind != WireType::LengthDelimited {
            skip_field(kind, number, &mut message, DecodeContext::default()).map_err(malformed)?;
            continue;
        }
        let length = decode_varint(&mut message).map_err(malformed)?;
        let value =
            usize::try_from(length).ok().and_then(|length| message.split_at_checked(length));
        let Some((value, rest)) = value else {
            return Err(Status::invalid_argument(format!(
                "invalid message: a field claims {length} bytes, {} remain",
                message.len()
            )));
        };
        visit(number, value, fields)?;
        message = rest;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;
    use tonic::Code;

    use super::*;
    use crate::api::grpc::pb::{InferTensorContents, model_infer_request::InferInputTensor};

    fn request(contents: InferTensorContents) -> ModelInferRequest {
        let input = InferInputTensor { contents: Some(contents), ..InferInputTensor::default() };
        ModelInferRequest { inputs: vec![input], ..ModelInferRequest::default() }
    }

    fn code(request: &ModelInferRequest) -> Option<Code> {
        ModelInferRequest::check(&request.encode_to_vec()).err().map(|status| status.code())
    }

    #[test]
    fn typed_tensors_count_towards_the_limit_and_raw_ones_do_not() {
        let raw = Bytes::from(vec![0; TYPED_BYTES_MAX + 1]);
        let raw = ModelInferRequest {
            raw_input_contents: vec![raw],
            ..request(InferTensorContents::default())
        };
        assert_eq!(code(&raw), None);
        let fp32_contents = vec![0.0; TYPED_BYTES_MAX / 4 - 100];
        let mut typed = InferTensorContents { fp32_contents, ..InferTensorContents::default() };
        assert_eq!(code(&request(typed.clone())), None);
        typed.fp32_contents.resize(TYPED_BYTES_MAX / 4, 0.0);
        assert_eq!(code(&request(typed)), Some(Code::OutOfRange));
    }

    #[test]
    fn fields_are_counted_at_every_level() {
        let bytes_contents = vec![Bytes::new(); FIELDS_MAX - 2];
        let mut texts = InferTensorContents { bytes_contents, ..InferTensorContents::default() };
        assert_eq!(code(&request(texts.clone())), None);
        texts.bytes_contents.push(Bytes::new());
        assert_eq!(code(&request(texts)), Some(Code::OutOfRange));
        let mut inputs = request(InferTensorContents::default());
        inputs.inputs.resize(FIELDS_MAX + 1, InferInputTensor::default());
        assert_eq!(code(&inputs), Some(Code::OutOfRange));
    }

    #[test]
    fn control_messages_over_the_limit_are_out_of_range() {
        let name = "m".repeat(CONTROL_BYTES_MAX);
        let question = ModelReadyRequest { name, version: String::new() };
        let status = ModelReadyRequest::check(&question.encode_to_vec()).unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange);
    }

    proptest! {
        #[test]
        fn accepted_messages_decode_without_a_panic(
            message in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if ModelInferRequest::check(&message).is_ok() {
                let _ = ModelInferRequest::decode(&message[..]);
            }
        }

        #[test]
        fn small_requests_are_accepted(
            id in ".{0,20}",
            numbers in prop::collection::vec(any::<i64>(), 0..20),
            texts in prop::collection::vec(any::<Vec<u8>>(), 0..5),
        ) {
            let bytes_contents = texts.into_iter().map(Bytes::from).collect();
            let contents = InferTensorContents { int64_contents: numbers, bytes_contents, ..InferTensorContents::default() };
            prop_assert_eq!(code(&ModelInferRequest { id, ..request(contents) }), None);
        }
    }
}
