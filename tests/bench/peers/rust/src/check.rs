//! The three jobs, as `peers/go` has them.

use std::collections::BTreeMap;

use hmac::{Hmac, Mac};
use prost_types::{Struct, Value, value::Kind};
use redis::aio::MultiplexedConnection;
use sha2::Sha256;
use tonic::{Request, Response, Status};

use crate::messages::{
    Allowed, CheckRequest, CheckResponse, Denied, HttpRequest, HttpResponse, HttpStatus,
    Status as Code,
};

/// Each counter has at least what is asked of it, or nothing is taken.
const TAKE: &str = "
local left = redis.call('HMGET', KEYS[1], 'credit', 'month', 'day', 'requests')
if not left[1] then return {-1} end
for i = 1, 4 do
  if tonumber(left[i]) < tonumber(ARGV[i]) then return {0} end
end
return {1,
  redis.call('HINCRBY', KEYS[1], 'credit', -ARGV[1]),
  redis.call('HINCRBY', KEYS[1], 'month', -ARGV[2]),
  redis.call('HINCRBY', KEYS[1], 'day', -ARGV[3]),
  redis.call('HINCRBY', KEYS[1], 'requests', -ARGV[4])}
";
const NAMES: [&str; 4] = ["credit", "month", "day", "requests"];
const TAKEN: [i64; 4] = [2_000, 50, 50, 1];

#[derive(Clone)]
pub enum Job {
    Bytes,
    Ok,
    Redis(Store),
}

/// All calls share one connection.
#[derive(Clone)]
pub struct Store {
    connection: MultiplexedConnection,
    script: String,
    secret: Vec<u8>,
}

impl Store {
    pub async fn open(url: &str, secret: &str) -> redis::RedisResult<Self> {
        let client = redis::Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        let script = redis::cmd("SCRIPT")
            .arg("LOAD")
            .arg(TAKE)
            .query_async(&mut connection)
            .await?;
        Ok(Self {
            connection,
            script,
            secret: secret.into(),
        })
    }

    async fn take(&mut self, key: &str) -> redis::RedisResult<Vec<i64>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.secret).expect("any length will do");
        mac.update(key.as_bytes());
        let customer = format!("peer:{:x}", mac.finalize().into_bytes());
        redis::cmd("EVALSHA")
            .arg(&self.script)
            .arg(1)
            .arg(customer)
            .arg(&TAKEN)
            .query_async(&mut self.connection)
            .await
    }
}

/// What every check of Sidecar reads of its metadata.
pub fn demand_token<T>(request: &Request<T>) -> Result<(), Status> {
    let metadata = request.metadata();
    match (
        metadata.get("x-sidecar-gateway"),
        metadata.get("x-sidecar-token"),
    ) {
        (Some(_), Some(_)) => Ok(()),
        _ => Err(Status::unauthenticated("no token")),
    }
}

pub async fn check(
    job: Job,
    request: Request<CheckRequest>,
) -> Result<Response<CheckResponse>, Status> {
    demand_token(&request)?;
    let Job::Redis(mut store) = job else {
        return Ok(Response::new(allowed(None)));
    };
    let http = request
        .into_inner()
        .attributes
        .and_then(|one| one.request)
        .and_then(|one| one.http);
    let credential = http.and_then(credential).unwrap_or_default();
    let Some(key) = credential.strip_prefix("Bearer ") else {
        return Ok(Response::new(denied(401)));
    };
    let left = store
        .take(key)
        .await
        .map_err(|error| Status::unavailable(error.to_string()))?;
    Ok(Response::new(match left.split_first() {
        Some((1, left)) => allowed(Some(facts(left))),
        Some((0, _)) => denied(402),
        _ => denied(401),
    }))
}

/// The caller's header, in whichever of its two forms Envoy sent it.
fn credential(mut http: HttpRequest) -> Option<String> {
    if let Some(value) = http.headers.remove("authorization") {
        return Some(value);
    }
    let headers = http.header_map?.headers;
    let header = headers
        .into_iter()
        .find(|header| header.key == "authorization")?;
    String::from_utf8(header.raw_value).ok()
}

fn facts(left: &[i64]) -> Struct {
    let number = |one: &i64| Value {
        kind: Some(Kind::NumberValue(*one as f64)),
    };
    let fields: BTreeMap<_, _> = NAMES
        .iter()
        .zip(left)
        .map(|(name, one)| (name.to_string(), number(one)))
        .collect();
    Struct { fields }
}

fn allowed(facts: Option<Struct>) -> CheckResponse {
    CheckResponse {
        status: Some(Code { code: 0 }),
        http_response: Some(HttpResponse::Ok(Allowed {})),
        dynamic_metadata: facts,
    }
}

fn denied(code: i32) -> CheckResponse {
    CheckResponse {
        status: Some(Code { code: 7 }),
        http_response: Some(HttpResponse::Denied(Denied {
            status: Some(HttpStatus { code }),
        })),
        dynamic_metadata: None,
    }
}
