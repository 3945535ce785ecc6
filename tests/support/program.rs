//! The simulator as a program: `cargo run --example simulator -- --demo --far`.

#![expect(clippy::print_stdout, reason = "it says where it listens")]

#[expect(dead_code, reason = "tests use more of it than this program")]
#[path = "mod.rs"]
mod support;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use support::pictures::{self, FOREST, MOUNTAINS};
use support::simulator::quirks::Quirk;
use support::simulator::shaping::{Shaping, Share};
use support::simulator::{ACCESS_KEY, REGION, SECRET_KEY, Simulator, World};

/// An S3 server in memory, with latency and faults on request
#[derive(Debug, Parser)]
struct Args {
    /// 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// A bucket to create; the objects of --demo, --synthetic and --tree go into the first
    #[arg(long, default_value = "myfiles")]
    bucket: Vec<String>,
    #[arg(long, default_value = REGION)]
    region: String,
    #[arg(long, default_value = ACCESS_KEY)]
    access_key: String,
    #[arg(long, default_value = SECRET_KEY)]
    secret_key: String,
    /// Answer unsigned requests, too
    #[arg(long)]
    anonymous: bool,
    /// Until the first byte of the answer to GET and HEAD
    #[arg(long, value_parser = humantime::parse_duration)]
    latency_get: Option<Duration>,
    /// Until the first byte of a page of a listing
    #[arg(long, value_parser = humantime::parse_duration)]
    latency_list: Option<Duration>,
    /// Bytes per second on each connection, as in 90MB
    #[arg(long, value_parser = parse_size)]
    bandwidth: Option<u64>,
    /// Bits per second of all answers together, as in 10mbit
    #[arg(long, value_parser = parse_bits)]
    line: Option<u64>,
    /// The standard far server: 20 ms for GET and HEAD, 60 ms for LIST, 90 MB/s per connection
    #[arg(long)]
    far: bool,
    /// One answer in so many begins later by --slow-by
    #[arg(long)]
    slow_one_in: Option<u64>,
    #[arg(long, value_parser = humantime::parse_duration, default_value = "500ms")]
    slow_by: Duration,
    /// One read or listing in so many is answered with 503
    #[arg(long)]
    errors_one_in: Option<u64>,
    /// One body in so many breaks off in its middle
    #[arg(long)]
    cuts_one_in: Option<u64>,
    /// One body in so many stops in its middle
    #[arg(long)]
    stalls_one_in: Option<u64>,
    /// How long it does [default: for ever]
    #[arg(long, value_parser = humantime::parse_duration)]
    stall_for: Option<Duration>,
    /// Each request is hit with this chance, rather than exactly the last of so many: the faults of several
    /// kinds meet then, and follow each other
    #[arg(long)]
    at_random: bool,
    /// One connection in so many requests is reset
    #[arg(long)]
    resets_one_in: Option<u64>,
    /// Differ from S3 in this way; may be given several times
    #[arg(long)]
    quirk: Vec<Quirk>,
    /// Two pictures and a small tree of text files
    #[arg(long)]
    demo: bool,
    /// KEY=SIZE: one object whose bytes are computed
    #[arg(long, value_parser = parse_synthetic)]
    synthetic: Vec<(String, u64)>,
    /// PREFIX=COUNTxSIZE: so many such objects
    #[arg(long, value_parser = parse_tree)]
    tree: Vec<(String, u64, u64)>,
    /// PREFIX=COUNTxCOUNTxSIZE: so many directories of so many such objects
    #[arg(long, value_parser = parse_forest)]
    forest: Vec<(String, u64, u64, u64)>,
    /// PREFIX=COUNTxSIZE: so many such objects, with random UUIDs for names
    #[arg(long, value_parser = parse_tree)]
    uuids: Vec<(String, u64, u64)>,
    /// Write requests here, one JSON object a line
    #[arg(long)]
    log_file: Option<PathBuf>,
    /// Write the address here when ready
    #[arg(long)]
    port_file: Option<PathBuf>,
    /// Serve HTTPS, and write the certificate of the authority here
    #[arg(long)]
    tls_ca: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    // Before anybody can know the address, so that no early signal is lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let simulator = start(&args)?;
    args.quirk.iter().for_each(|quirk| simulator.set_quirk(*quirk));
    fill(&args, &simulator);
    let endpoint = simulator.endpoint();
    if let Some(path) = &args.tls_ca {
        std::fs::write(path, simulator.ca_pem())?;
    }
    if let Some(path) = &args.port_file {
        // Whoever waits for the file must not see half of it.
        let unfinished = path.with_extension("unfinished");
        std::fs::write(&unfinished, &endpoint)?;
        std::fs::rename(&unfinished, path)?;
    }
    println!("listening on {endpoint}");
    tokio::select! {
        _ = terminate.recv() => (),
        _ = interrupt.recv() => (),
    }
    Ok(())
}

fn start(args: &Args) -> std::io::Result<Simulator> {
    let mut builder = Simulator::builder()
        .port(args.port)
        .region(&args.region)
        .credentials(&args.access_key, &args.secret_key)
        .shaping(shaping(args));
    for bucket in &args.bucket {
        builder = builder.bucket(bucket);
    }
    if args.tls_ca.is_some() {
        builder = builder.tls();
    }
    if let Some(path) = &args.log_file {
        builder = builder.log_file(path)?;
    }
    builder.try_start()
}

/// What is given by itself counts more than `--far`.
fn shaping(args: &Args) -> Shaping {
    let base = if args.far { Shaping::far() } else { Shaping::default() };
    let one_in = |every| one_in(every, args.at_random);
    Shaping {
        latency_get: args.latency_get.unwrap_or(base.latency_get),
        latency_list: args.latency_list.unwrap_or(base.latency_list),
        bandwidth_per_connection: args.bandwidth.or(base.bandwidth_per_connection),
        line: args.line.or(base.line),
        slow: one_in(args.slow_one_in),
        slow_by: args.slow_by,
        errors: one_in(args.errors_one_in),
        cuts: one_in(args.cuts_one_in),
        stalls: one_in(args.stalls_one_in),
        stall_for: args.stall_for,
        resets: one_in(args.resets_one_in),
        ..base
    }
}

fn one_in(every: Option<u64>, at_random: bool) -> Share {
    match every {
        None => Share::None,
        #[expect(clippy::cast_precision_loss, reason = "a small number")]
        Some(every) if at_random => Share::Fraction(1.0 / every as f64),
        Some(every) => Share::OneIn(every),
    }
}

fn fill(args: &Args, world: &World) {
    let bucket = args.bucket.first().expect("clap has a default").as_str();
    for name in &args.bucket {
        world.set_anonymous(name, args.anonymous);
    }
    if args.demo {
        fill_demo(world, bucket);
    }
    for (key, size) in &args.synthetic {
        world.put_synthetic(bucket, key, *size);
    }
    for (prefix, count, size) in &args.tree {
        world.put_tree(bucket, prefix, *count, *size);
    }
    for (prefix, count, size) in &args.uuids {
        world.put_uuids(bucket, prefix, *count, *size);
    }
    for (prefix, n_directories, n_files, size) in &args.forest {
        world.put_forest(bucket, prefix, *n_directories, *n_files, *size);
    }
}

fn fill_demo(world: &World, bucket: &str) {
    let picture = |scene, size| pictures::jpeg(scene, 1280, 720, size);
    world.put(bucket, "forrest.jpg", picture(FOREST, 1_675_801));
    world.put(bucket, "mountains.jpg", picture(MOUNTAINS, 2_005_500));
    let texts = [
        ("notes/readme.txt", "Everything here is made up.\n"),
        ("notes/2026/january.txt", "Snow on the mountains.\n"),
        ("notes/2026/june.txt", "Mushrooms in the forest.\n"),
        ("notes/with space & plus+.txt", "Names may hold almost anything.\n"),
        ("notes/\u{fc}ml\u{e4}ute.txt", "Names are Unicode.\n"),
    ];
    for (key, text) in texts {
        world.put(bucket, key, text);
    }
}

/// A number of bytes: `4096`, `64KiB`, `90MB`.
fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        unit => return Err(format!("unknown unit {unit}")),
    };
    let number: u64 = number.parse().map_err(|_| format!("no number: {text}"))?;
    number.checked_mul(factor).ok_or_else(|| format!("too large: {text}"))
}

/// A number of bits, `10mbit` or `1gbit`, in bytes.
fn parse_bits(text: &str) -> Result<u64, String> {
    let (number, factor) = match (text.strip_suffix("mbit"), text.strip_suffix("gbit")) {
        (Some(number), _) => (number, 125_000),
        (_, Some(number)) => (number, 125_000_000),
        _ => return Err("expected a number of mbit or gbit".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| format!("no number: {text}"))?;
    number.checked_mul(factor).ok_or_else(|| format!("too large: {text}"))
}

fn parse_synthetic(text: &str) -> Result<(String, u64), String> {
    let (key, size) = text.rsplit_once('=').ok_or("expected KEY=SIZE")?;
    Ok((key.to_owned(), parse_size(size)?))
}

fn parse_tree(text: &str) -> Result<(String, u64, u64), String> {
    let expected = "expected PREFIX=COUNTxSIZE";
    let (prefix, rest) = text.rsplit_once('=').ok_or(expected)?;
    let (count, size) = rest.split_once('x').ok_or(expected)?;
    let count = count.parse().map_err(|_| format!("no number: {count}"))?;
    Ok((prefix.to_owned(), count, parse_size(size)?))
}

fn parse_forest(text: &str) -> Result<(String, u64, u64, u64), String> {
    let expected = "expected PREFIX=COUNTxCOUNTxSIZE";
    let (prefix, rest) = text.rsplit_once('=').ok_or(expected)?;
    let [n_directories, n_files, size] = rest.split('x').collect::<Vec<_>>()[..] else {
        return Err(expected.to_owned());
    };
    let count = |text: &str| text.parse().map_err(|_| format!("no number: {text}"));
    Ok((prefix.to_owned(), count(n_directories)?, count(n_files)?, parse_size(size)?))
}
