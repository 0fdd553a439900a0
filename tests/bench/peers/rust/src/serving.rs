//! Calls to jobs, with the message read or left as it came.

use std::convert::Infallible;

use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::{BoxFuture, Context, Poll, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};

use prost::bytes::{Buf, BufMut, Bytes};

use crate::check::{Job, check, demand_token};
use crate::messages::{CheckRequest, CheckResponse};

/// A CheckResponse whose status is OK, the bytes that engine_process.py answers.
const OK_ANSWER: &[u8] = &[0x0a, 0x00];

#[derive(Clone)]
pub struct CheckService {
    pub job: Job,
}

impl NamedService for CheckService {
    const NAME: &'static str = "envoy.service.auth.v3.Authorization";
}

impl Service<http::Request<tonic::body::Body>> for CheckService {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let job = self.job.clone();
        Box::pin(async move {
            Ok(match job {
                Job::Bytes => Grpc::new(BytesCodec).unary(Unread, request).await,
                job => {
                    Grpc::new(tonic_prost::ProstCodec::default())
                        .unary(Read(job), request)
                        .await
                }
            })
        })
    }
}

struct Read(Job);

impl UnaryService<CheckRequest> for Read {
    type Response = CheckResponse;
    type Future = BoxFuture<Response<CheckResponse>, Status>;

    fn call(&mut self, request: Request<CheckRequest>) -> Self::Future {
        Box::pin(check(self.0.clone(), request))
    }
}

struct Unread;

impl UnaryService<Bytes> for Unread {
    type Response = &'static [u8];
    type Future = BoxFuture<Response<&'static [u8]>, Status>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        Box::pin(async move {
            demand_token(&request)?;
            Ok(Response::new(OK_ANSWER))
        })
    }
}

/// Leaves messages as they came.
#[derive(Clone, Copy)]
struct BytesCodec;

impl Codec for BytesCodec {
    type Encode = &'static [u8];
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for BytesCodec {
    type Item = &'static [u8];
    type Error = Status;

    fn encode(&mut self, item: Self::Item, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put_slice(item);
        Ok(())
    }
}

impl Decoder for BytesCodec {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}
