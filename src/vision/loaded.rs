//! A model that is loaded and warm, in one worker's hands: runs it over several pictures at once, where its graph allows.
//! Never prepares a picture and never says what its outputs mean.

use super::model::Described;
use super::onnx::{Halt, Library, Session, SessionOptions};
use bulkhead_core::fault::Fault;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a warm-up run may take: a first run on a GPU compiles kernels.
const WARM_UP: Duration = Duration::from_secs(300);

/// How a model is run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How its session is opened.
    pub session: SessionOptions,
    /// How many pictures one run takes at most, at least 1.
    pub pictures_max: usize,
}

/// A worker's own session.
pub struct Loaded {
    session: Session,
    shape: [usize; 4],
    output: usize,
    classes: usize,
    pictures_max: usize,
    /// As many blank pictures as a run takes.
    blank: Vec<f32>,
}

impl Loaded {
    /// Loads what is described, and runs it on blank pictures: the first run allocates what all later ones use, and shows
    /// what a graph with free dimensions gives.
    ///
    /// # Errors
    /// Everything that is wrong with the model.
    pub fn load(described: &Described, library: Option<&Path>, options: &RunOptions) -> Result<Self, Vec<String>> {
        let begun = Instant::now();
        let library = Library::load(library).map_err(|e| vec![e.to_string()])?;
        let model = described.read_model().map_err(|e| vec![e])?;
        let within = |e: String| vec![format!("{}: file: {e}", described.path.display())];
        let session = Session::open(&library, &model, &options.session).map_err(within)?;
        let output = described.check_graph(session.signature())?;
        let shape = described.input_shape();
        let (classes, pictures_max) = (described.labels.len(), options.pictures_max.max(1));
        let blank = vec![0.0; shape.iter().product::<usize>() * pictures_max];
        let mut loaded = Self { session, shape, output, classes, pictures_max, blank };
        let given = loaded.warm_up(1).map_err(within)?;
        if given != classes {
            return Err(vec![format!(
                "{}: labels: {classes} of them, but the graph gives {given} values: as many labels are needed",
                described.path.display(),
            )]);
        }
        if let Err(why) = loaded.warm_up_whole() {
            tracing::warn!(model = %described.path.display(), why, "the model takes one picture a run, not {pictures_max}");
            loaded.pictures_max = 1;
        }
        let provider = loaded.session.provider().as_str();
        let (took_ms, pictures_max) = (begun.elapsed().as_millis(), loaded.pictures_max);
        tracing::info!(model = %described.path.display(), provider, pictures_max, took_ms, "model loaded and warm");
        Ok(loaded)
    }

    /// How many pictures one run takes at most.
    #[must_use]
    pub fn pictures_max(&self) -> usize {
        self.pictures_max
    }

    /// Values that one picture has.
    #[must_use]
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    fn warm_up(&mut self, pictures: usize) -> Result<usize, String> {
        let blank = std::mem::take(&mut self.blank);
        let given =
            self.session.run(&self.shape_of(pictures), &blank[..pictures * self.values()], self.output, WARM_UP);
        self.blank = blank;
        given.map(|values| values.len()).map_err(|halt| halt.to_string())
    }

    /// Whether the graph takes as many pictures as it is to take.
    fn warm_up_whole(&mut self) -> Result<(), String> {
        if self.pictures_max == 1 {
            return Ok(());
        }
        let first = self.session.signature().inputs[0].shape[0];
        if !first.takes(self.pictures_max) {
            return Err("its input's first dimension is fixed".to_owned());
        }
        let (given, wanted) = (self.warm_up(self.pictures_max)?, self.pictures_max * self.classes);
        if given == wanted { Ok(()) } else { Err(format!("it gives {given} values for them, {wanted} are needed")) }
    }

    fn shape_of(&self, pictures: usize) -> [usize; 4] {
        let [_, a, b, c] = self.shape;
        [pictures, a, b, c]
    }

    /// Runs the graph over pictures, at most [`Loaded::pictures_max`] of them, and gives what it says of each. A run that
    /// takes longer than `limit` is ended. Where a run fails, its pictures are run one by one to find the one at fault.
    ///
    /// # Errors
    /// Transient `inference_timeout`; fatal where the model fails on blank pictures, too.
    pub fn run(&mut self, values: &[f32], limit: Duration) -> Result<Vec<Result<Vec<f32>, Fault>>, Fault> {
        let pictures = values.len() / self.values();
        match self.session.run(&self.shape_of(pictures), values, self.output, limit) {
            Ok(outputs) if outputs.len() == pictures * self.classes => {
                Ok(outputs.chunks_exact(self.classes).map(|classes| Ok(classes.to_vec())).collect())
            }
            Ok(outputs) => {
                let message = format!("the model gave {} values for {pictures} pictures", outputs.len());
                Err(Fault::fatal("class_count", message))
            }
            Err(Halt::Ended) => Err(ended(limit)),
            Err(Halt::Failed(why)) if pictures == 1 => self.blame(why, limit).map(|fault| vec![Err(fault)]),
            Err(Halt::Failed(_)) => {
                let each = values.chunks_exact(self.values());
                each.map(|picture| self.run(picture, limit)).collect::<Result<Vec<_>, _>>().map(|all| all.concat())
            }
        }
    }

    /// The model failed on one picture: tells whose fault it is.
    fn blame(&mut self, why: String, limit: Duration) -> Result<Fault, Fault> {
        match self.session.run(&self.shape, &self.blank[..self.values()], self.output, limit) {
            Ok(_) => Ok(Fault::poison("inference_failed", why)),
            Err(Halt::Ended) => Err(ended(limit)),
            Err(Halt::Failed(again)) => Err(Fault::fatal("inference_failed", again)),
        }
    }
}

fn ended(limit: Duration) -> Fault {
    Fault::transient("inference_timeout", format!("the model's run was ended after {limit:?}"))
}
