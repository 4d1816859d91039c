//! The limit of `images`: JPEG files are decoded, scaled and classified on every core, with nothing around it: no log, no
//! retries, no limits on what a file may cost. Never uses a crate of the project.
//!
//! `FOLDER MODEL COUNT WORKERS`: the folder's JPEGs again and again until COUNT are done. Prints one line of JSON: how many,
//! in how many seconds, in how many of processor time, and the class of each file.

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use ort::environment::Environment;
use ort::session::Session;
use ort::value::TensorRef;
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

const SIDE: usize = 224;
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [folder, model, count, workers] = &args[..] else { panic!("usage: FOLDER MODEL COUNT WORKERS") };
    let number = |text: &str| text.parse::<usize>().unwrap_or_else(|e| panic!("{text}: {e}"));
    let (count, workers) = (number(count), number(workers));
    let library = std::env::var("ORT_DYLIB_PATH").expect("ORT_DYLIB_PATH names ONNX Runtime's library");
    let environment = ort::init_from(library).expect("the library loads").with_telemetry(false);
    let environment = environment.build().expect("the library is new enough");
    let files = files(Path::new(folder));
    let (next, ready) = (AtomicUsize::new(0), Barrier::new(workers + 1));
    let (mut began, mut before, mut classes) = (Instant::now(), 0.0, vec![usize::MAX; files.len()]);
    std::thread::scope(|scope| {
        let work = || {
            let mut worker = Worker::new(&environment, model);
            worker.class_of(&files[0]);
            ready.wait();
            let mut found = Vec::new();
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return found;
                }
                found.push((n % files.len(), worker.class_of(&files[n % files.len()])));
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        ready.wait();
        (began, before) = (Instant::now(), cpu_seconds());
        for worker in workers {
            for (file, class) in worker.join().expect("no worker fails") {
                classes[file] = class;
            }
        }
    });
    let (seconds, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - before);
    println!(r#"{{"images":{count},"seconds":{seconds},"cpu_seconds":{cpu},"classes":{classes:?}}}"#);
}

/// The processor time that this process has taken.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells of this process");
    // After the name, which stands in parentheses: utime and stime are the 12th and 13th field, in ticks of 10 ms.
    let fields = stat.rsplit_once(')').expect("the name ends").1.split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<f64>().expect("ticks are a number")).sum::<f64>() / 100.0
}

/// The folder's files, in the order of their names.
fn files(folder: &Path) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(folder).expect("the folder can be read");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry can be read").path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("a file can be read")).collect()
}

struct Worker {
    session: Session,
    resizer: Resizer,
    input: Vec<f32>,
}

impl Worker {
    fn new(environment: &Environment, model: &str) -> Self {
        let builder = Session::builder(environment).expect("a session can be set up");
        let mut builder = builder.with_intra_threads(1).expect("a session can have one thread");
        let session = builder.commit_from_file(model).expect("the model loads");
        Self { session, resizer: Resizer::new(), input: vec![0.0; 3 * SIDE * SIDE] }
    }

    fn class_of(&mut self, jpeg: &[u8]) -> usize {
        let options = DecoderOptions::default().jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
        let rgb = decoder.decode().expect("the file is a JPEG");
        let (width, height) = decoder.dimensions().expect("it was decoded");
        let source = ImageRef::new(width as u32, height as u32, &rgb, PixelType::U8x3).expect("three bytes a pixel");
        let mut scaled = Image::new(SIDE as u32, SIDE as u32, PixelType::U8x3);
        let side = width.min(height) as f64;
        let (left, top) = ((width as f64 - side) / 2.0, (height as f64 - side) / 2.0);
        let alg = ResizeAlg::Convolution(FilterType::Bilinear);
        let options = ResizeOptions::new().resize_alg(alg).crop(left, top, side, side);
        self.resizer.resize(&source, &mut scaled, &options).expect("the window lies within");
        for (i, pixel) in scaled.buffer().chunks_exact(3).enumerate() {
            for channel in 0..3 {
                let value = f32::from(pixel[channel]) / 255.0;
                self.input[channel * SIDE * SIDE + i] = (value - MEAN[channel]) / STD[channel];
            }
        }
        let input = TensorRef::from_array_view(([1, 3, SIDE, SIDE], &self.input[..])).expect("the shape fits");
        let outputs = self.session.run(ort::inputs![input]).expect("the model runs");
        let scores = outputs[0].try_extract_tensor::<f32>().expect("scores are floats").1;
        (0..scores.len()).max_by(|a, b| scores[*a].total_cmp(&scores[*b])).expect("there are classes")
    }
}
