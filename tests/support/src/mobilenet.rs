//! MobileNetV2's graph (Sandler et al. 2018, table 2) with random weights from a seed: the work of the real one, and
//! answers that mean nothing. Never trained.

use crate::onnx::{Attribute, Builder, FLOAT};

/// Expansion, channels, repetitions, first stride.
const BLOCKS: [(u64, u64, u64, u64); 7] =
    [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)];

/// Which MobileNetV2.
#[derive(Clone, Copy, Debug)]
pub struct MobileNet {
    /// Pixels a side: 224.
    pub side: u64,
    /// Of the channels: 1 is the paper's, 3.5 million weights; below it the last layer is narrowed, too.
    pub width: f64,
    /// How many classes: 1000.
    pub classes: u64,
    /// `[n, height, width, 3]` as TensorFlow has it, not `[n, 3, height, width]`.
    pub nhwc: bool,
    /// Ends with a softmax.
    pub softmax: bool,
}

impl MobileNet {
    /// As an ONNX file: input `image`, output `scores`, a free number of pictures at a time.
    #[must_use]
    pub fn onnx(&self) -> Vec<u8> {
        let mut net =
            Net { graph: Builder::default(), random: 0x9E37_79B9_7F4A_7C15, six: [String::new(), String::new()] };
        net.six = [net.graph.tensor(&[], &[0.0]), net.graph.tensor(&[], &[6.0])];
        let side = Some(self.side);
        let shape = if self.nhwc { [None, side, side, Some(3)] } else { [None, Some(3), side, side] };
        net.graph.input("image", FLOAT, &shape);
        net.graph.output("scores", FLOAT, &[None, Some(self.classes)]);
        let mut at = "image".to_owned();
        if self.nhwc {
            at = net.graph.node("Transpose", &[&at], &[Attribute::Ints("perm", &[0, 3, 1, 2])]);
        }
        let scaled = |channels: u64| ((channels as f64 * self.width / 8.0).round() as u64).max(1) * 8;
        let mut channels = scaled(32);
        at = net.conv(&at, Conv { from: 3, to: channels, kernel: 3, stride: 2, groups: 1 }, true);
        for (expansion, to, times, stride) in BLOCKS {
            for time in 0..times {
                let stride = if time == 0 { stride } else { 1 };
                at = net.block(&at, channels, scaled(to), expansion, stride);
                channels = scaled(to);
            }
        }
        let last = scaled(1280);
        at = net.conv(&at, Conv { from: channels, to: last, kernel: 1, stride: 1, groups: 1 }, true);
        at = net.graph.node("GlobalAveragePool", &[&at], &[]);
        at = net.graph.node("Flatten", &[&at], &[]);
        net.dense(&at, last, self.classes, self.softmax);
        net.graph.build("mobilenet_v2")
    }
}

struct Conv {
    from: u64,
    to: u64,
    kernel: u64,
    stride: u64,
    groups: u64,
}

struct Net {
    graph: Builder,
    random: u64,
    /// The bounds of ReLU6.
    six: [String; 2],
}

impl Net {
    /// Expand, convolve each channel alone, project; added to what came in where the shapes agree.
    fn block(&mut self, input: &str, from: u64, to: u64, expansion: u64, stride: u64) -> String {
        let inner = from * expansion;
        let mut at = input.to_owned();
        if expansion > 1 {
            at = self.conv(&at, Conv { from, to: inner, kernel: 1, stride: 1, groups: 1 }, true);
        }
        at = self.conv(&at, Conv { from: inner, to: inner, kernel: 3, stride, groups: inner }, true);
        at = self.conv(&at, Conv { from: inner, to, kernel: 1, stride: 1, groups: 1 }, false);
        if stride == 1 && from == to { self.graph.node("Add", &[input, &at], &[]) } else { at }
    }

    fn conv(&mut self, input: &str, conv: Conv, relu: bool) -> String {
        let Conv { from, to, kernel, stride, groups } = conv;
        let each = from / groups * kernel * kernel;
        let gain = if relu { 6.0 } else { 3.0 };
        let weights = self.weights(&[to, from / groups, kernel, kernel], (gain / each as f64).sqrt());
        let bias = self.weights(&[to], 0.1);
        let pad = kernel / 2;
        let attributes = [
            Attribute::Ints("kernel_shape", &[kernel, kernel]),
            Attribute::Ints("strides", &[stride, stride]),
            Attribute::Ints("pads", &[pad; 4]),
            Attribute::Int("group", groups),
        ];
        let at = self.graph.node("Conv", &[input, &weights, &bias], &attributes);
        if !relu {
            return at;
        }
        let [low, high] = self.six.clone();
        self.graph.node("Clip", &[&at, &low, &high], &[])
    }

    fn dense(&mut self, input: &str, from: u64, to: u64, softmax: bool) {
        let weights = self.weights(&[from, to], (3.0 / from as f64).sqrt());
        let bias = self.weights(&[to], 0.1);
        if softmax {
            let logits = self.graph.node("Gemm", &[input, &weights, &bias], &[]);
            self.graph.node_named("scores", "Softmax", &[&logits], &[]);
        } else {
            self.graph.node_named("scores", "Gemm", &[input, &weights, &bias], &[]);
        }
    }

    /// Evenly between plus and minus `most`: what keeps activations about as large as they came in.
    fn weights(&mut self, shape: &[u64], most: f64) -> String {
        let count: u64 = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| ((self.next() * 2.0 - 1.0) * most) as f32).collect();
        self.graph.tensor(shape, &values)
    }

    /// 0..1, by xorshift64*.
    fn next(&mut self) -> f64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1_u64 << 53) as f64
    }
}
