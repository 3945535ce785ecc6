//! The S3 servers that the contract suite runs against: ours, two that others made, and the one
//! that `S3MOUNT_TEST_ENDPOINT` names. Those that are programs are started on a free port and end
//! with the value.

use std::env;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::mounted::wait_until;
use super::simulator::quirks::Quirk;
use super::simulator::{ACCESS_KEY, REGION, SECRET_KEY, Simulator};

/// A server that answers, and what a client needs to know of it.
pub(crate) struct Server {
    /// As the table of what cannot be names it.
    pub(crate) name: String,
    pub(crate) endpoint: String,
    pub(crate) region: String,
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) session_token: Option<String>,
    /// The one bucket that may be written to; else the suite creates its own.
    pub(crate) bucket: Option<String>,
    running: Running,
}

enum Running {
    Simulator(Simulator),
    Program { child: Child, _scratch: TempDir },
    Elsewhere,
}

impl Server {
    pub(crate) fn simulator() -> Self {
        Self::of_simulator("simulator".to_owned(), Simulator::builder().start())
    }

    /// The simulator with one way to differ from S3, by whose name it goes.
    pub(crate) fn quirky(quirk: Quirk) -> Self {
        let simulator = Simulator::builder().start();
        simulator.set_quirk(quirk);
        Self::of_simulator(format!("{quirk:?}"), simulator)
    }

    fn of_simulator(name: String, simulator: Simulator) -> Self {
        Self::new(name, simulator.endpoint(), Running::Simulator(simulator))
    }

    /// moto (PyPI `moto`). `None` where it is not installed.
    pub(crate) fn moto() -> Option<Self> {
        let mut command = Command::new(find_program("moto_server")?);
        let port = free_port();
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        Some(Self::start("moto", command, port))
    }

    /// ministack (PyPI), with signatures and policies in force. `None` where it is not installed.
    pub(crate) fn ministack() -> Option<Self> {
        let mut command = Command::new(find_program("ministack")?);
        let port = free_port();
        command
            .env("GATEWAY_PORT", port.to_string())
            .env("SERVICES", "s3")
            .env("AUTH", "true")
            .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        Some(Self::start("ministack", command, port))
    }

    /// What `S3MOUNT_TEST_ENDPOINT` names, with `S3MOUNT_TEST_BUCKET` where that is set; keys and
    /// region as the AWS command line takes them from the environment.
    pub(crate) fn given() -> Option<Self> {
        let endpoint = variable("S3MOUNT_TEST_ENDPOINT")?;
        let needed = |name: &str| {
            variable(name).unwrap_or_else(|| panic!("S3MOUNT_TEST_ENDPOINT is set, {name} is not"))
        };
        let region = variable("AWS_REGION").or_else(|| variable("AWS_DEFAULT_REGION"));
        Some(Self {
            name: "given".to_owned(),
            endpoint,
            region: region.unwrap_or_else(|| REGION.to_owned()),
            access_key: needed("AWS_ACCESS_KEY_ID"),
            secret_key: needed("AWS_SECRET_ACCESS_KEY"),
            session_token: variable("AWS_SESSION_TOKEN"),
            bucket: variable("S3MOUNT_TEST_BUCKET"),
            running: Running::Elsewhere,
        })
    }

    /// The simulator, for what is done there without a request.
    pub(crate) fn as_simulator(&self) -> Option<&Simulator> {
        match &self.running {
            Running::Simulator(simulator) => Some(simulator),
            Running::Program { .. } | Running::Elsewhere => None,
        }
    }

    /// Whether it belongs to the tests, so that everything must be tried.
    pub(crate) fn is_ours(&self) -> bool {
        !matches!(self.running, Running::Elsewhere)
    }

    /// What a program of the AWS family needs in its environment to use this server.
    pub(crate) fn environment(&self) -> Vec<(&'static str, String)> {
        let mut variables = vec![
            ("AWS_ENDPOINT_URL", self.endpoint.clone()),
            ("AWS_REGION", self.region.clone()),
            ("AWS_ACCESS_KEY_ID", self.access_key.clone()),
            ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone()),
        ];
        variables.extend(self.session_token.clone().map(|token| ("AWS_SESSION_TOKEN", token)));
        variables.extend(variable("AWS_CA_BUNDLE").map(|path| ("AWS_CA_BUNDLE", path)));
        variables
    }

    fn start(name: &str, mut command: Command, port: u16) -> Self {
        let scratch = tempfile::tempdir().expect("a directory for the server");
        let log = scratch.path().join("log");
        let output = File::create(&log).expect("a log file");
        let child = command
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|err| panic!("{name} does not start: {err}"));
        // From here on Drop ends it.
        let running = Running::Program { child, _scratch: scratch };
        let server = Self::new(name.to_owned(), format!("http://127.0.0.1:{port}"), running);
        let answers = wait_until(|| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
        assert!(answers, "{name} does not answer: {}", log_text(&log));
        server
    }

    fn new(name: String, endpoint: String, running: Running) -> Self {
        Self {
            name,
            endpoint,
            region: REGION.to_owned(),
            access_key: ACCESS_KEY.to_owned(),
            secret_key: SECRET_KEY.to_owned(),
            session_token: None,
            bucket: None,
            running,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Running::Program { child, .. } = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The value of an environment variable that is set and not empty.
pub(crate) fn variable(name: &str) -> Option<String> {
    env::var_os(name)?.into_string().ok().filter(|value| !value.is_empty())
}

/// Where scripts/test installs the servers, then PATH.
fn find_program(name: &str) -> Option<PathBuf> {
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/venv/bin");
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories = std::iter::once(installed).chain(env::split_paths(&path));
    directories.find_map(|directory| Some(directory.join(name)).filter(|path| path.is_file()))
}

/// Free a moment ago: the programs cannot be asked for one themselves.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound").port()
}

fn log_text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}
