//! ONNX graphs for tests and benchmarks, written as the protobuf messages they are (onnx.proto3), so that no file need be
//! kept and no Python is needed. Never reads one.

/// `TensorProto.DataType`: 32-bit floats.
pub const FLOAT: u64 = 1;
/// 64-bit integers.
pub const INT64: u64 = 7;
/// Truth values.
pub const BOOL: u64 = 9;
/// 64-bit floats.
pub const DOUBLE: u64 = 11;
/// The operator set that the graphs are written in.
pub const OPSET: u64 = 17;
const IR_VERSION: u64 = 8;

/// An attribute of a node.
#[derive(Clone, Copy, Debug)]
pub enum Attribute<'a> {
    /// One number.
    Int(&'a str, u64),
    /// Several.
    Ints(&'a str, &'a [u64]),
    /// A graph within the graph, as [`Builder::graph`] gives it.
    Graph(&'a str, &'a [u8]),
}

/// A graph that grows node by node.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    body: Vec<u8>,
    /// Nodes and tensors so far; what they are called by.
    count: usize,
}

impl Builder {
    /// An input; `None` is a free dimension.
    pub fn input(&mut self, name: &str, element: u64, shape: &[Option<u64>]) {
        self.body.extend(message(11, &value(name, element, shape)));
    }

    /// An output that a node gives.
    pub fn output(&mut self, name: &str, element: u64, shape: &[Option<u64>]) {
        self.body.extend(message(12, &value(name, element, shape)));
    }

    /// A node with one output, whose name is given back.
    pub fn node(&mut self, operator: &str, inputs: &[&str], attributes: &[Attribute<'_>]) -> String {
        self.count += 1;
        let output = format!("{}_{}", operator.to_lowercase(), self.count);
        self.node_named(&output, operator, inputs, attributes);
        output
    }

    /// A node whose output is called that.
    pub fn node_named(&mut self, output: &str, operator: &str, inputs: &[&str], attributes: &[Attribute<'_>]) {
        let mut node: Vec<u8> = inputs.iter().flat_map(|name| text(1, name)).collect();
        node.extend([text(2, output), text(4, operator)].concat());
        node.extend(attributes.iter().flat_map(|a| message(5, &attribute(*a))));
        self.body.extend(message(1, &node));
    }

    /// Weights; their name is given back.
    pub fn tensor(&mut self, shape: &[u64], values: &[f32]) -> String {
        let raw: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.constant(FLOAT, shape, &raw)
    }

    /// Values of any kind, little-endian; their name is given back.
    pub fn constant(&mut self, element: u64, shape: &[u64], raw: &[u8]) -> String {
        self.count += 1;
        let name = format!("weights_{}", self.count);
        let sizes = shape.iter().flat_map(|size| number(1, *size));
        let tensor = [sizes.collect(), number(2, element), text(8, &name), message(9, raw)].concat();
        self.body.extend(message(5, &tensor));
        name
    }

    /// The graph alone, for a node that runs it.
    #[must_use]
    pub fn graph(mut self, name: &str) -> Vec<u8> {
        self.body.extend(text(2, name));
        self.body
    }

    /// The file.
    #[must_use]
    pub fn build(self, name: &str) -> Vec<u8> {
        let graph = self.graph(name);
        let producer = [text(2, "bulkhead-testkit"), text(3, "1")].concat();
        [number(1, IR_VERSION), producer, message(7, &graph), message(8, &number(2, OPSET))].concat()
    }
}

/// What a graph that only flattens looks like from outside.
#[derive(Clone, Copy, Debug)]
pub struct Graph<'a> {
    /// The input's shape; `None` is a free dimension.
    pub input: &'a [Option<u64>],
    /// The outputs' names and shapes; each is the input, flattened to a row.
    pub outputs: &'a [(&'a str, &'a [Option<u64>])],
    /// Of input and outputs: [`FLOAT`] or [`DOUBLE`].
    pub element: u64,
}

/// A model that flattens its input `pixels`: what goes in comes out.
#[must_use]
pub fn flatten(graph: &Graph<'_>) -> Vec<u8> {
    let mut builder = Builder::default();
    builder.input("pixels", graph.element, graph.input);
    for (name, shape) in graph.outputs {
        builder.node_named(name, "Flatten", &["pixels"], &[]);
        builder.output(name, graph.element, shape);
    }
    builder.build("flatten")
}

fn attribute(attribute: Attribute<'_>) -> Vec<u8> {
    const KIND: u64 = 20;
    match attribute {
        Attribute::Int(name, value) => [text(1, name), number(3, value), number(KIND, 2)].concat(),
        Attribute::Ints(name, values) => {
            let values = values.iter().flat_map(|v| number(8, *v)).collect();
            [text(1, name), values, number(KIND, 7)].concat()
        }
        Attribute::Graph(name, graph) => [text(1, name), message(6, graph), number(KIND, 5)].concat(),
    }
}

fn value(name: &str, element: u64, shape: &[Option<u64>]) -> Vec<u8> {
    let dimensions: Vec<u8> = shape
        .iter()
        .flat_map(|size| message(1, &size.map_or_else(|| text(2, "free"), |size| number(1, size))))
        .collect();
    let tensor = [number(1, element), message(2, &dimensions)].concat();
    [text(1, name), message(2, &message(1, &tensor))].concat()
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

fn message(field: u64, body: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(body.len() as u64), body.to_vec()].concat()
}

fn text(field: u64, text: &str) -> Vec<u8> {
    message(field, text.as_bytes())
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value > 0x7F {
        bytes.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}
