//! What a message may cost in memory once it is taken apart, decided by its bytes: two of them can
//! be a whole element of a list. Raw tensors cost what they are and are bounded as the message is.
//! Pure.

use bytes::Buf;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};
use tonic::Status;

use crate::api::grpc::pb::{
    ModelConfigRequest, ModelInferRequest, ModelMetadataRequest, ModelReadyRequest,
    ModelStatisticsRequest, RepositoryIndexRequest, RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest, ServerLiveRequest, ServerMetadataRequest, ServerReadyRequest,
};

/// Bytes of a message beyond which taking it apart or putting it together would keep others
/// waiting.
pub(super) const AT_ONCE_BYTES_MAX: usize = 256 * 1024;
/// Bytes of a message that asks for no inference.
pub(super) const QUESTION_BYTES_MAX: usize = 8 * 1024;
/// Bytes of an inference request besides raw tensors.
const TYPED_BYTES_MAX: usize = 8 << 20;
/// Fields of an inference request, those of inputs and their contents included.
const FIELDS_MAX: usize = 1 << 18;

/// Fields by number; see `proto/inference.proto`.
const INPUTS: u32 = 5;
const RAW_INPUT_CONTENTS: u32 = 7;
const CONTENTS: u32 = 5;

/// A message that clients send.
pub(crate) trait Bounded {
    /// Whether a message with these bytes may be taken apart.
    ///
    /// # Errors
    /// Why not.
    fn check(message: &[u8]) -> Result<(), Status>;
}

macro_rules! questions {
    ($($message:ty),*) => {$(
        impl Bounded for $message {
            fn check(message: &[u8]) -> Result<(), Status> {
                if message.len() <= QUESTION_BYTES_MAX {
                    return Ok(());
                }
                let bytes = message.len();
                let text = format!("the message has {bytes} bytes, at most {QUESTION_BYTES_MAX} are taken");
                Err(Status::out_of_range(text))
            }
        }
    )*};
}

questions!(
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
                "the message has {typed_bytes} bytes besides raw_input_contents, at most {TYPED_BYTES_MAX} are taken: send large tensors raw"
            )));
        }
        Ok(())
    }
}

/// Something that wants to see fields which have a length.
type Visit<'v> = dyn FnMut(u32, &[u8], &mut usize) -> Result<(), Status> + 'v;

/// Shows the fields of a message, and counts all.
fn walk(mut message: &[u8], fields: &mut usize, visit: &mut Visit<'_>) -> Result<(), Status> {
    let malformed = |error: prost::DecodeError| {
        Status::invalid_argument(format!("the message is not what it should be: {error}"))
    };
    while message.has_remaining() {
        *fields += 1;
        if *fields > FIELDS_MAX {
            return Err(Status::out_of_range(format!(
                "the message has more than {FIELDS_MAX} parts: send large tensors raw"
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
                "the message is not what it should be: a field has {length} bytes, and {} follow",
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
    fn raw_tensors_are_not_held_against_a_request_but_typed_ones_are() {
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
    fn small_parts_are_counted_wherever_they_are() {
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
    fn a_question_is_short() {
        let name = "m".repeat(QUESTION_BYTES_MAX);
        let question = ModelReadyRequest { name, version: String::new() };
        let status = ModelReadyRequest::check(&question.encode_to_vec()).unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange);
    }

    proptest! {
        #[test]
        fn what_is_let_through_can_be_taken_apart_or_is_refused_without_a_panic(
            message in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            if ModelInferRequest::check(&message).is_ok() {
                let _ = ModelInferRequest::decode(&message[..]);
            }
        }

        #[test]
        fn every_small_request_is_let_through(
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
