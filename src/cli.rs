//! The command line: what each verb does with a config. Never runs the engine itself: `daemon.rs` does.

use crate::config::daemon::LogFormat;
use crate::config::load::Options;
use crate::config::problem::Problem;
use crate::config::text::Name;
use crate::config::{Config, Overrides, reference, schema};
use crate::exit::Exit;
use crate::model::{self, ModelCommand};
use crate::simulate::{self, SimulateArgs};
use crate::{cases, connect, daemon, health, list, logging, topics, worker};
use clap::{Args, Parser, Subcommand};
use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What the clients of `check --connect` call themselves; they join no group.
const CHECK_INSTANCE: &str = "check";
/// And those of `topics`.
const TOPICS_INSTANCE: &str = "topics";

/// A stream processor on Apache Kafka whose failing parts restart alone: nothing is lost, doubled or reordered by it.
#[derive(Debug, Parser)]
#[command(name = "bulkhead", version, arg_required_else_help = true)]
#[command(
    after_help = "Exit codes: 0 clean, 1 config has problems, 2 wrong usage, 3 could not start, 4 failed, 5 forced to stop."
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the pipelines of a config until SIGTERM or SIGINT; then finish what is in flight (a second signal stops at
    /// once)
    Run(RunArgs),
    /// Check a config and tell all of its problems at once
    Check(CheckArgs),
    /// Run the cases in a config's tests/*.toml through the real steps of its pipelines, without a log
    Test(TestArgs),
    /// Ask a running daemon whether it may be sent requests (for a container's health check)
    Health(HealthArgs),
    /// List a config's pipelines, stages, steps and routes
    List(ConfigArgs),
    /// List a config's topics as they are, and make what they keep what the config says
    Topics(TopicsArgs),
    /// Look at one model and its description
    #[command(subcommand)]
    Model(ModelCommand),
    /// Print the JSON Schema of the config files, or their reference page
    Schema(SchemaArgs),
    /// Send realistic traffic to a route, tell how fast it was answered, and check that what was accepted came out
    #[command(after_help = simulate::PLACEHOLDERS)]
    Simulate(SimulateArgs),
    /// Run the steps of one stage for the daemon that started this process
    #[command(hide = true)]
    Worker(WorkerArgs),
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The config directory: bulkhead.toml and pipelines/*.toml
    #[arg(long, value_name = "DIR", default_value = "config", env = "BULKHEAD_CONFIG")]
    config: PathBuf,
    /// Allow steps that break things on purpose, for tests
    #[arg(long, env = "BULKHEAD_CHAOS")]
    chaos: bool,
    /// Kafka's brokers, HOST:PORT,… (kafka.brokers); without any, the embedded log
    #[arg(long, value_name = "BROKERS", env = "BULKHEAD_KAFKA", value_parser = brokers)]
    kafka: Option<String>,
}

#[derive(Debug, Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The data directory (data.dir)
    #[arg(long, value_name = "DIR", env = "BULKHEAD_DATA")]
    data: Option<PathBuf>,
    /// Where traffic is served (http.listen)
    #[arg(long, value_name = "IP:PORT", env = "BULKHEAD_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where operators are served (admin.listen)
    #[arg(long, value_name = "IP:PORT", env = "BULKHEAD_ADMIN")]
    admin: Option<SocketAddr>,
    /// This daemon's name among those of the same pipelines (instance)
    #[arg(long, value_name = "NAME", env = "BULKHEAD_INSTANCE", value_parser = |name: &str| name.parse::<Name>())]
    instance: Option<Name>,
    /// The program of isolated workers, for tests of what it may do wrong; else this one
    #[arg(long, value_name = "FILE", env = "BULKHEAD_WORKER", hide = true)]
    worker: Option<PathBuf>,
    /// How the console's lines look (log.format)
    #[arg(long, value_name = "FORMAT", env = "BULKHEAD_LOG_FORMAT")]
    log_format: Option<LogFormat>,
    /// What is logged: off, error, warn, info, debug, trace, or info,MODULE=debug (log.level)
    #[arg(long, value_name = "LEVEL", env = "BULKHEAD_LOG_LEVEL", value_parser = log_level)]
    log_level: Option<String>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Also ask the brokers: reachable, and the topics as the config says they are
    #[arg(long)]
    connect: bool,
}

#[derive(Debug, Args)]
struct TestArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Where steps keep what they keep; else a folder that is removed afterwards
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Only cases whose file or name has this in it
    filter: Option<String>,
}

#[derive(Debug, Args)]
struct TopicsArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The data directory (data.dir), where the embedded log is
    #[arg(long, value_name = "DIR", env = "BULKHEAD_DATA")]
    data: Option<PathBuf>,
    /// Change the retention of topics that have another one than the config says
    #[arg(long)]
    apply: bool,
}

#[derive(Debug, Args)]
struct HealthArgs {
    /// Where the daemon serves operators
    #[arg(long, value_name = "IP:PORT", env = "BULKHEAD_ADMIN", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
}

#[derive(Debug, Args)]
struct WorkerArgs {
    /// The config directory, where relative paths of steps start
    #[arg(long, value_name = "DIR")]
    config: PathBuf,
    /// The pipeline
    #[arg(long, value_name = "NAME")]
    pipeline: String,
    /// The stage
    #[arg(long, value_name = "NAME")]
    stage: String,
}

#[derive(Debug, Args)]
struct SchemaArgs {
    /// Print the reference page (Markdown) instead
    #[arg(long)]
    reference: bool,
    /// Of a model's description, not of the config files
    #[arg(long)]
    model: bool,
}

fn brokers(text: &str) -> Result<String, String> {
    crate::config::daemon::is_brokers(text).map(|()| text.to_owned())
}

fn log_level(text: &str) -> Result<String, String> {
    logging::filter(text).map(|_| text.to_owned())
}

/// Does what the command line asks for.
#[must_use]
pub fn main() -> Exit {
    match Cli::parse().command {
        Command::Run(args) => run(args),
        Command::Check(args) => check(&args),
        Command::Test(args) => test(&args),
        Command::Health(args) => health::ready(args.admin).map_or_else(
            |why| {
                eprintln!("{why}");
                Exit::Failed
            },
            |()| print("ready\n"),
        ),
        Command::List(args) => match load(&args, Overrides::default()) {
            Ok(config) => print(&list::list(&config)),
            Err(exit) => exit,
        },
        Command::Simulate(args) => simulate::run(&args),
        Command::Topics(args) => topics(&args),
        Command::Worker(args) => worker::run(&args.config, &args.pipeline, &args.stage),
        Command::Model(command) => {
            let (told, problems, exit) = model::run(&command);
            eprint!("{problems}");
            match print(&told) {
                Exit::Clean => exit,
                unprinted => unprinted,
            }
        }
        Command::Schema(SchemaArgs { reference: true, model: false }) => print(&reference::markdown()),
        Command::Schema(SchemaArgs { reference: false, model: false }) => print(&schema::text(&schema::both())),
        Command::Schema(SchemaArgs { reference: true, model: true }) => print(&reference::model()),
        Command::Schema(SchemaArgs { reference: false, model: true }) => print(&schema::text(&schema::model())),
    }
}

fn run(args: RunArgs) -> Exit {
    let overrides = Overrides {
        instance: args.instance,
        data: args.data,
        listen: args.listen,
        admin: args.admin,
        worker: args.worker,
        log_level: args.log_level,
        log_format: args.log_format,
        ..Overrides::default()
    };
    match load(&args.config, overrides) {
        Ok(config) => daemon::run(config),
        Err(exit) => exit,
    }
}

fn check(args: &CheckArgs) -> Exit {
    let config = match load(&args.config, Overrides::default()) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    if args.connect {
        let findings = match daemon::open_log(&config, CHECK_INSTANCE, &config.daemon.data.dir) {
            Ok(log) => connect::check(&*log, &config),
            Err(why) => connect::Findings { problems: vec![why], ..connect::Findings::default() },
        };
        for line in findings.problems.iter().chain(&findings.notes) {
            eprintln!("{line}");
        }
        if !findings.problems.is_empty() {
            return Exit::Start;
        }
    }
    print(&format!("{}: {}\n", config.dir.display(), list::summary(&config)))
}

fn test(args: &TestArgs) -> Exit {
    let mut config = match load(&args.config, Overrides::default()) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let (own, shared) = (args.data.clone(), std::env::temp_dir().join(format!("bulkhead-test-{}", std::process::id())));
    let data = own.clone().unwrap_or_else(|| shared.clone());
    if let Err(why) = std::fs::create_dir_all(&data) {
        eprintln!("{}: {why}", data.display());
        return Exit::Start;
    }
    // What steps keep lies there, too, and not in the daemon's own directory.
    config.daemon.data.dir.clone_from(&data);
    let report = cases::run(&config, &data, args.filter.as_deref());
    if own.is_none()
        && let Err(why) = std::fs::remove_dir_all(&shared)
    {
        eprintln!("{} is left behind: {why}", shared.display());
    }
    match report {
        Ok(report) => match print(&report.text) {
            Exit::Clean if report.passed => Exit::Clean,
            Exit::Clean => Exit::Failed,
            unprinted => unprinted,
        },
        Err(problems) => {
            tell(&problems);
            Exit::Config
        }
    }
}

fn topics(args: &TopicsArgs) -> Exit {
    let overrides = Overrides { data: args.data.clone(), ..Overrides::default() };
    let config = match load(&args.config, overrides) {
        Ok(config) => config,
        Err(exit) => return exit,
    };
    let specs = config.pipelines.iter().flat_map(|pipeline| {
        let name = pipeline.name.0.clone();
        daemon::topics(&config, pipeline).into_iter().map(move |topic| (name.clone(), topic.spec))
    });
    let specs: Vec<_> = specs.collect();
    let told = daemon::open_log(&config, TOPICS_INSTANCE, &config.daemon.data.dir)
        .and_then(|log| topics::tell(&*log, &specs, args.apply));
    match told {
        Ok(told) => print(&told),
        Err(why) => {
            eprintln!("{why}");
            Exit::Start
        }
    }
}

/// The checked config; its problems and warnings are printed.
fn load(args: &ConfigArgs, overrides: Overrides) -> Result<Config, Exit> {
    let variables = |name: &str| std::env::var(name).ok();
    let overrides = Overrides { brokers: args.kafka.clone(), ..overrides };
    let options = Options { variables: &variables, overrides, chaos: args.chaos };
    match Config::load(&args.config, &options) {
        Ok((config, warnings)) => {
            tell(&warnings);
            Ok(config)
        }
        Err(problems) => {
            tell(&problems);
            let count = problems.iter().filter(|problem| !problem.is_warning).count();
            eprintln!("{}: {count} problem{}", args.config.display(), if count == 1 { "" } else { "s" });
            Err(Exit::Config)
        }
    }
}

fn tell(problems: &[Problem]) {
    for problem in problems {
        eprintln!("{problem}");
    }
}

/// Prints a result. Whoever closes the pipe early has seen enough.
fn print(text: &str) -> Exit {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => Exit::Clean,
        Err(why) if why.kind() == std::io::ErrorKind::BrokenPipe => Exit::Clean,
        Err(why) => {
            eprintln!("standard output: {why}");
            Exit::Start
        }
    }
}
