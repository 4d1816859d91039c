//! `images`: JPEG pictures of 640 x 480 pixels a second, from a topic through MobileNetV2's graph to their classes in
//! another, the daemon beside a bare program that decodes, scales and runs the same graph without Kafka. Both must name
//! the same classes.

use crate::report::{Figure, Report, median};
use crate::watch::{Progress, Run, Speed};
use bulkhead_core::record::Record;
use bulkhead_testkit::daemon::{Daemon, DaemonSpec};
use bulkhead_testkit::kafka::Kafka;
use bulkhead_testkit::mobilenet::MobileNet;
use bulkhead_testkit::process::Process;
use bulkhead_testkit::topics::Isolation;
use image::codecs::jpeg::JpegEncoder;
use image::{Rgb, RgbImage};
use rdkafka::Message;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(crate) const NAME: &str = "images";
const SOURCE: &str = "images.in";
const PARTITIONS: i32 = 4;
const CLASSES: u64 = 1000;
/// Different pictures; the load repeats them.
const PICTURES: usize = 32;
const QUALITY: u8 = 90;
/// Of the classes, how many both must agree on: scaling is the same, but decoders may round differently.
const AGREEMENT: f64 = 0.9;

#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) images: usize,
    pub(crate) pairs: u32,
}

/// Measures pairs and adds the figures.
pub(crate) fn measure(kafka: &Kafka, size: Size, report: &mut Report) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let bench = Bench::new(kafka, folder.path(), size.images);
    let (mut limits, mut values, mut memory) = (Vec::<Limit>::new(), Vec::<Speed>::new(), Vec::new());
    // The first pair warms what only pictures take, and is not counted.
    for pair in 0..=size.pairs {
        let limit = bench.limit(pair);
        let (speed, mib) = bench.daemon(pair, &limit.classes);
        println!("{NAME} pair {pair}: limit {:?}, bulkhead {speed:?}, {mib:.0} MiB", limit.speed);
        if pair > 0 {
            limits.push(limit);
            values.push(speed);
            memory.push(mib);
        }
    }
    for (suffix, unit) in [("", "images/s"), ("_cpu", "us/image")] {
        let of = |speed: &Speed| if suffix.is_empty() { speed.rate } else { speed.cpu_us };
        let values: Vec<f64> = values.iter().map(of).collect();
        let limits: Vec<f64> = limits.iter().map(|limit| of(&limit.speed)).collect();
        let ratios: Vec<f64> = values.iter().zip(&limits).map(|(value, limit)| value / limit).collect();
        report.add(Figure {
            name: format!("{NAME}{suffix}"),
            value: median(&values),
            unit,
            limit: Some(median(&limits)),
            ratio: Some(median(&ratios)),
            runs: format!("{ratios:.2?}"),
        });
    }
    report.memory(format!("{NAME}_memory"), &memory);
}

struct Bench<'a> {
    kafka: &'a Kafka,
    folder: &'a Path,
    images: usize,
    workers: usize,
}

/// What the bare program did.
struct Limit {
    speed: Speed,
    /// The class of each picture.
    classes: Vec<u64>,
}

impl<'a> Bench<'a> {
    /// Writes the model and the pictures, and fills the source.
    fn new(kafka: &'a Kafka, folder: &'a Path, images: usize) -> Self {
        fs::create_dir_all(folder.join("pictures")).expect("a temporary folder can be written");
        let pictures: Vec<Vec<u8>> = (0..PICTURES).map(|n| jpeg(n as u32)).collect();
        for (n, picture) in pictures.iter().enumerate() {
            fs::write(folder.join(format!("pictures/{n:03}.jpg")), picture).expect("a picture can be written");
        }
        let bytes: usize = pictures.iter().map(Vec::len).sum();
        println!("{NAME}: {PICTURES} pictures of {} kB on average", bytes / PICTURES / 1000);
        let model = MobileNet { side: 224, width: 1.0, classes: CLASSES, nhwc: false, softmax: false };
        fs::write(folder.join("model.onnx"), model.onnx()).expect("the model can be written");
        kafka.create_topic(SOURCE, PARTITIONS);
        let record = |n: usize| {
            let key = (n % PICTURES).to_string().into_bytes();
            let value = pictures[n % PICTURES].clone();
            (
                Some(n as i32 % PARTITIONS),
                Record { key: Some(key.into()), value: Some(value.into()), ..Record::default() },
            )
        };
        kafka.produce(SOURCE, (0..images).map(record));
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Self { kafka, folder, images, workers }
    }

    /// The bare program.
    fn limit(&self, pair: u32) -> Limit {
        let program = Path::new(env!("CARGO_BIN_EXE_bulkhead")).with_file_name(NAME);
        assert!(program.exists(), "{}: build it with `cargo build --release -p bulkhead-limits`", program.display());
        let path = |name: &str| self.folder.join(name).display().to_string();
        let args = [path("pictures"), path("model.onnx"), self.images.to_string(), self.workers.to_string()];
        let log = self.folder.join(format!("limit{pair}"));
        let process = Process::start("limit", &program, args, &[], &log);
        let status = process.wait_exit(Duration::from_secs(300));
        assert!(status.is_some_and(|s| s.success()), "the limit failed:\n{}", process.tail(20));
        let said: Value = serde_json::from_str(&fs::read_to_string(log).expect("it was written")).expect("it is JSON");
        let classes = said["classes"].as_array().expect("classes").iter().map(|c| c.as_u64().expect("a class"));
        let seconds = |name: &str| said[name].as_f64().expect("seconds");
        let images = self.images as f64;
        let speed = Speed { rate: images / seconds("seconds"), cpu_us: seconds("cpu_seconds") * 1e6 / images };
        Limit { speed, classes: classes.collect() }
    }

    /// The daemon, and its peak memory in MiB.
    fn daemon(&self, pair: u32, classes: &[u64]) -> (Speed, f64) {
        let name = format!("{NAME}_{pair}");
        for topic in ["out", "dlq"] {
            self.kafka.create_topic(&format!("{name}.{topic}"), PARTITIONS);
        }
        let config = self.write_config(&name);
        let spec = DaemonSpec::new(env!("CARGO_BIN_EXE_bulkhead"), config, self.folder.join(format!("{name}.data")));
        let daemon = Daemon::start(&spec.on(self.kafka.bootstrap()).named("bench").env("BULKHEAD_LOG_LEVEL", "warn"));
        let output = format!("{name}.out");
        let ends = self.kafka.end_offsets(SOURCE, Isolation::Committed);
        let positions = self.kafka.positions(&name, SOURCE);
        let run = Run {
            kafka: self.kafka,
            progress: Progress::Positions(&positions),
            records: self.images as i64,
            pid: daemon.pid(),
            pause: Duration::from_millis(100),
        };
        let (speed, mib) = run.watch_daemon(&daemon, || positions.committed() == ends);
        self.compare(&output, classes);
        (speed, mib)
    }

    /// Every picture was classified once, and as the limit did.
    fn compare(&self, output: &str, classes: &[u64]) {
        let (mut count, mut agreed) = (0, 0);
        self.kafka.visit_topic(output, Isolation::Committed, |message| {
            let text = |bytes: Option<&[u8]>| String::from_utf8(bytes.unwrap_or_default().to_vec()).expect("UTF-8");
            let picture: usize = text(message.key()).parse().expect("the key is the picture's number");
            let answer: Value = serde_json::from_slice(message.payload().unwrap_or_default()).expect("JSON");
            count += 1;
            agreed += usize::from(answer["label"].as_str() == Some(&classes[picture].to_string()));
        });
        assert_eq!(count, self.images, "{output}: outputs");
        let share = agreed as f64 / count as f64;
        assert!(share >= AGREEMENT, "{output}: only {share:.2} of the classes are the limit's");
    }

    /// A config directory with one pipeline of one stage, a worker a core.
    fn write_config(&self, name: &str) -> PathBuf {
        let config = self.folder.join(format!("{name}.config"));
        fs::create_dir_all(config.join("pipelines")).expect("a temporary folder can be written");
        let write = |path: &str, text: String| fs::write(config.join(path), text).expect("the config can be written");
        fs::copy(self.folder.join("model.onnx"), config.join("model.onnx")).expect("the model can be copied");
        let model = fs::read(self.folder.join("model.onnx")).expect("the model was written");
        let sha256: String = Sha256::digest(model).iter().map(|b| format!("{b:02x}")).collect();
        write("labels.txt", (0..CLASSES).map(|class| format!("{class}\n")).collect());
        write("model.toml", format!("file = \"model.onnx\"\nsha256 = \"{sha256}\"\n{DESCRIPTION}"));
        write("bulkhead.toml", "version = 1\n".into());
        let workers = self.workers;
        write(
            "pipelines/bench.toml",
            format!(
                r#"version = 1
[pipeline]
name     = "{name}"
delivery = "exactly_once"
source   = {{ topic = "{SOURCE}", partitions = {PARTITIONS}, group = "{name}" }}
output   = {{ topic = "{name}.out" }}
dlq      = {{ topic = "{name}.dlq" }}
batch    = {{ records_max = 8, bytes_max = "16MiB", linger = "2ms" }}
in_flight = {{ batches_max = 16, bytes_max = "64MiB" }}
lane      = {{ count = 1, commit_interval = "250ms" }}

[[stage]]
name    = "infer"
workers = {workers}
steps   = [{{ classify = {{ model = "model.toml" }} }}]
"#
            ),
        );
        config
    }
}

const DESCRIPTION: &str = r#"labels_file = "labels.txt"
softmax = true
[input]
width = 224
height = 224
layout = "nchw"
channels = "rgb"
fit = "cover"
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
"#;

/// A picture of 640 x 480 pixels with soft shapes, edges and grain: about as large as a photo of that size.
fn jpeg(seed: u32) -> Vec<u8> {
    let mut random = seed.wrapping_mul(2_654_435_761) | 1;
    let picture = RgbImage::from_fn(640, 480, |x, y| {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        let grain = (random >> 24) as f32 / 255.0 * 20.0 - 10.0;
        let (x, y, turn) = (x as f32, y as f32, seed as f32);
        let wave = |a: f32, b: f32| (x / a + y / b + turn).sin() * 55.0;
        let edge = if ((x - 320.0).hypot(y - 240.0) / (20.0 + turn)).sin() > 0.6 { 35.0 } else { 0.0 };
        Rgb([wave(37.0, 91.0), wave(113.0, 29.0), wave(-61.0, 47.0)].map(|v| (128.0 + v + edge + grain) as u8))
    });
    let mut file = Vec::new();
    JpegEncoder::new_with_quality(&mut file, QUALITY).encode_image(&picture).expect("a picture can be encoded");
    file
}
