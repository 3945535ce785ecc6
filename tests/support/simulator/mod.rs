//! An S3 server in memory: for tests, for the demo and for benchmarks.
//!
//! It runs on threads of its own, so that a test may block while the program under test is served,
//! and ends when it is dropped. s3s verifies signatures and writes errors; reads and listings are
//! ours, because they must be exact and fast.
//!
//! From the outside in: `server` takes connections and applies what `shaping` and `hooks` decide;
//! `access` says who may, by `policy` and `iam`, and `issuer` gives out temporary credentials;
//! `reads` and `writes` answer from the buckets of `world`; `body` sends; `log` remembers. `call` is
//! the request as all of them see it.

pub(crate) mod access;
mod body;
pub(crate) mod bucket;
pub(crate) mod call;
pub(crate) mod checksum;
pub(crate) mod content;
mod dates;
mod hooks;
pub(crate) mod iam;
pub(crate) mod issuer;
pub(crate) mod listing;
pub(crate) mod log;
pub(crate) mod policy;
pub(crate) mod quirks;
mod reads;
mod server;
pub(crate) mod shaping;
mod tls;
mod world;
mod writes;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use tokio::runtime::{Builder as RuntimeBuilder, Runtime};

use server::Server;
use shaping::Shaping;
use tls::Tls;

pub(crate) use world::World;

pub(crate) const ACCESS_KEY: &str = "simulator-access";
pub(crate) const SECRET_KEY: &str = "simulator-secret";
pub(crate) const REGION: &str = "us-east-1";

/// A running server; all methods of [`World`] work on it.
pub(crate) struct Simulator {
    world: Arc<World>,
    address: SocketAddr,
    region: String,
    access_key: String,
    secret_key: String,
    ca_pem: Option<String>,
    /// None only while dropping.
    runtime: Option<Runtime>,
}

impl Simulator {
    pub(crate) fn builder() -> Builder {
        Builder {
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            buckets: Vec::new(),
            region: REGION.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            shaping: Shaping::default(),
            tls: false,
            log_file: None,
        }
    }

    /// What a client takes as the address of the service.
    pub(crate) fn endpoint(&self) -> String {
        match self.ca_pem {
            None => format!("http://{}", self.address),
            Some(_) => format!("https://localhost:{}", self.address.port()),
        }
    }

    pub(crate) fn access_key(&self) -> &str {
        &self.access_key
    }

    pub(crate) fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// What a program of the AWS family needs in its environment to use this server.
    pub(crate) fn environment(&self) -> [(&'static str, String); 4] {
        [
            ("AWS_ENDPOINT_URL", self.endpoint()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
        ]
    }

    /// The certificate of the authority that signed that of the server.
    pub(crate) fn ca_pem(&self) -> &str {
        self.ca_pem.as_deref().expect("a simulator with TLS")
    }
}

impl Deref for Simulator {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        // Without waiting: stalled bodies would never end.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[must_use]
pub(crate) struct Builder {
    address: SocketAddr,
    buckets: Vec<String>,
    region: String,
    access_key: String,
    secret_key: String,
    shaping: Shaping,
    tls: bool,
    log_file: Option<File>,
}

impl Builder {
    /// An empty bucket to start with.
    pub(crate) fn bucket(mut self, name: &str) -> Self {
        self.buckets.push(name.to_owned());
        self
    }

    /// Of all buckets that are not created with a region of their own.
    pub(crate) fn region(mut self, region: &str) -> Self {
        region.clone_into(&mut self.region);
        self
    }

    /// 0, the default, takes a free one.
    pub(crate) fn port(mut self, port: u16) -> Self {
        self.address.set_port(port);
        self
    }

    pub(crate) fn credentials(mut self, access_key: &str, secret_key: &str) -> Self {
        access_key.clone_into(&mut self.access_key);
        secret_key.clone_into(&mut self.secret_key);
        self
    }

    pub(crate) fn shaping(mut self, shaping: Shaping) -> Self {
        self.shaping = shaping;
        self
    }

    /// HTTPS, with a new certificate authority.
    pub(crate) fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Finished requests are also written here, one JSON object a line.
    pub(crate) fn log_file(mut self, path: &Path) -> std::io::Result<Self> {
        self.log_file = Some(File::create(path)?);
        Ok(self)
    }

    /// Returns when connections are accepted.
    pub(crate) fn start(self) -> Simulator {
        self.try_start().expect("the simulator starts on a free port")
    }

    pub(crate) fn try_start(self) -> std::io::Result<Simulator> {
        let world = Arc::new(World::new(&self.region));
        world.add_credentials(&self.access_key, &self.secret_key);
        world.shape(|shaping| *shaping = self.shaping);
        for bucket in &self.buckets {
            world.create_bucket(bucket);
        }
        if let Some(file) = self.log_file {
            world.log.write_to(file);
        }
        let listener = TcpListener::bind(self.address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (acceptor, ca_pem) = match self.tls.then(Tls::generate) {
            Some(Tls { acceptor, ca_pem }) => (Some(acceptor), Some(ca_pem)),
            None => (None, None),
        };
        let runtime = RuntimeBuilder::new_multi_thread()
            .worker_threads(2)
            .thread_name("simulator")
            .enable_all()
            .build()?;
        runtime.spawn(Server::new(Arc::clone(&world), acceptor).run(listener));
        Ok(Simulator {
            world,
            address,
            region: self.region,
            access_key: self.access_key,
            secret_key: self.secret_key,
            ca_pem,
            runtime: Some(runtime),
        })
    }
}
