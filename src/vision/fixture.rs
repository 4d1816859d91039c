//! Small ONNX graphs for tests, written as the protobuf messages they are (onnx.proto3). In no release.

/// Which way a graph ends.
pub(crate) struct Graph<'a> {
    /// The input's shape; `None` is a free dimension.
    pub(crate) input: &'a [Option<u64>],
    /// The outputs' names and shapes; each is the input, flattened to a row.
    pub(crate) outputs: &'a [(&'a str, &'a [Option<u64>])],
    /// `TensorProto.DataType` of input and outputs: 1 is float, 11 is double.
    pub(crate) element: u64,
}

/// A model that flattens its input `pixels`: what goes in comes out.
pub(crate) fn flatten(graph: &Graph<'_>) -> Vec<u8> {
    let nodes = graph.outputs.iter().flat_map(|(name, _)| {
        let node = [text(1, "pixels"), text(2, name), text(4, "Flatten")].concat();
        message(1, &node)
    });
    let mut body: Vec<u8> = nodes.collect();
    body.extend(text(2, "flatten"));
    body.extend(message(11, &value("pixels", graph.element, graph.input)));
    for (name, shape) in graph.outputs {
        body.extend(message(12, &value(name, graph.element, shape)));
    }
    let opset = number(2, 17);
    [number(1, 8), message(7, &body), message(8, &opset)].concat()
}

fn value(name: &str, element: u64, shape: &[Option<u64>]) -> Vec<u8> {
    let dimensions: Vec<u8> = shape
        .iter()
        .flat_map(|size| message(1, &size.map_or_else(|| text(2, "free"), |size| number(1, size))))
        .collect();
    let tensor = [number(1, element), message(2, &dimensions)].concat();
    [text(1, name), message(2, &message(1, &tensor))].concat()
}

fn number(field: u8, value: u64) -> Vec<u8> {
    [vec![field << 3], varint(value)].concat()
}

fn message(field: u8, body: &[u8]) -> Vec<u8> {
    [vec![field << 3 | 2], varint(body.len() as u64), body.to_vec()].concat()
}

fn text(field: u8, text: &str) -> Vec<u8> {
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
