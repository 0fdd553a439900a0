//! A peer to measure beside Sidecar: an ext_authz server as one would write it with tonic.
//!
//! It has the jobs of `peers/go` (`bytes`, `ok`, `redis`), whose head says what they leave out. It
//! serves on one thread, prints its address, and ends when its input does.
//!
//!     sidecar-bench-peer JOB [REDIS_URL SECRET]

mod check;
mod messages;
mod serving;

use std::error::Error;

use tokio::io::AsyncReadExt;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use check::{Job, Store};
use serving::CheckService;

async fn job_of(arguments: &[String]) -> Result<Job, Box<dyn Error>> {
    let words: Vec<_> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["bytes"] => Ok(Job::Bytes),
        ["ok"] => Ok(Job::Ok),
        ["redis", url, secret] => Ok(Job::Redis(Store::open(url, secret).await?)),
        _ => Err("there is no such job".into()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let job = job_of(&arguments).await?;
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse()?)?.with_nodelay(Some(true));
    println!("{}", incoming.local_addr()?);
    let input_ends = async {
        let mut nothing = Vec::new();
        let _ = tokio::io::stdin().read_to_end(&mut nothing).await;
    };
    tokio::select! {
        served = Server::builder().add_service(CheckService { job }).serve_with_incoming(incoming) => served?,
        () = input_ends => (),
    }
    Ok(())
}
