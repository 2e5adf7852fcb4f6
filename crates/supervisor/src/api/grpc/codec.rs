//! A prost codec that checks each message with [`crate::api::grpc::bounds`] before decoding it, and
//! handles large messages off the async thread.

use bytes::Buf;
use prost::Message;
use tokio::task::block_in_place;
use tonic::{
    Status,
    codec::{self, DecodeBuf, EncodeBuf},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

use crate::api::grpc::bounds::{Bounded, INLINE_BYTES_MAX};

/// The codec of a method that takes a `U` and returns a `T`.
#[derive(Clone, Debug, Default)]
pub(super) struct Codec<T, U>(ProstCodec<T, U>);

/// The encoder of [`Codec`].
#[derive(Clone, Debug)]
pub(super) struct Encoder<T>(ProstEncoder<T>);

/// The decoder of [`Codec`].
#[derive(Clone, Debug)]
pub(super) struct Decoder<U>(ProstDecoder<U>);

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Bounded + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = Encoder<T>;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Encoder<T> {
        Encoder(codec::Codec::encoder(&mut self.0))
    }

    fn decoder(&mut self) -> Decoder<U> {
        Decoder(codec::Codec::decoder(&mut self.0))
    }
}

impl<T: Message> codec::Encoder for Encoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = item.encoded_len();
        buffer.reserve(bytes);
        if bytes > INLINE_BYTES_MAX {
            return block_in_place(|| self.0.encode(item, buffer));
        }
        self.0.encode(item, buffer)
    }
}

impl<U: Message + Default + Bounded> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        if buffer.remaining() > INLINE_BYTES_MAX {
            return block_in_place(|| decode(&mut self.0, buffer));
        }
        decode(&mut self.0, buffer)
    }
}

fn decode<U: Message + Default + Bounded>(
    decoder: &mut ProstDecoder<U>,
    buffer: &mut DecodeBuf<'_>,
) -> Result<Option<U>, Status> {
    // The buffer holds a message in one chunk.
    U::check(buffer.chunk())?;
    codec::Decoder::decode(decoder, buffer)
        .map_err(|error| Status::invalid_argument(format!("invalid message: {}", error.message())))
}
