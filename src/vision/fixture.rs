//! Graphs of two pixels that behave badly in one way each. In no release.

use bulkhead_testkit::onnx::{Attribute, BOOL, Builder, FLOAT, INT64};

/// What a row of any length and number looks like.
const ROWS: &[Option<u64>] = &[None, None];

/// A graph from `pixels`, two a picture and any number of pictures, to `out`.
fn two_pixels(nodes: impl FnOnce(&mut Builder)) -> Vec<u8> {
    let mut builder = Builder::default();
    builder.input("pixels", FLOAT, &[None, Some(1), Some(1), Some(2)]);
    nodes(&mut builder);
    builder.output("out", FLOAT, ROWS);
    builder.build("two_pixels")
}

/// What goes in comes out.
pub(crate) fn as_it_is() -> Vec<u8> {
    two_pixels(|graph| graph.node_named("out", "Flatten", &["pixels"], &[]))
}

/// What goes in comes out, one picture at a time, though its input says otherwise.
pub(crate) fn one_at_a_time() -> Vec<u8> {
    two_pixels(|graph| {
        let shape = graph.constant(INT64, &[2], &[1i64.to_le_bytes(), 2i64.to_le_bytes()].concat());
        graph.node_named("out", "Reshape", &["pixels", &shape], &[]);
    })
}

/// What goes in comes out, but a run over a batch with a white pixel in it fails: it looks up what is not there.
pub(crate) fn fails_on_white() -> Vec<u8> {
    two_pixels(|graph| {
        let flat = graph.node("Flatten", &["pixels"], &[]);
        let brightest = graph.node("ReduceMax", &[&flat], &[Attribute::Ints("axes", &[1])]);
        let index = graph.node("Cast", &[&brightest], &[Attribute::Int("to", INT64)]);
        let one_zero = graph.tensor(&[1], &[0.0]);
        let zero = graph.node("Gather", &[&one_zero, &index], &[]);
        graph.node_named("out", "Add", &[&flat, &zero], &[]);
    })
}

/// What goes in comes out, but a batch with a white pixel in it takes for ever.
pub(crate) fn endless_on_white() -> Vec<u8> {
    let mut turn = Builder::default();
    turn.input("turn", INT64, &[]);
    turn.input("on", BOOL, &[]);
    turn.input("held", FLOAT, ROWS);
    turn.node_named("still_on", "Identity", &["on"], &[]);
    turn.node_named("kept", "Identity", &["held"], &[]);
    turn.output("still_on", BOOL, &[]);
    turn.output("kept", FLOAT, ROWS);
    let turn = turn.graph("turn");
    two_pixels(|graph| {
        let flat = graph.node("Flatten", &["pixels"], &[]);
        let brightest = graph.node("ReduceMax", &["pixels"], &[Attribute::Int("keepdims", 0)]);
        let many = graph.tensor(&[], &[1e15]);
        let long = graph.node("Mul", &[&brightest, &many], &[]);
        let turns = graph.node("Cast", &[&long], &[Attribute::Int("to", INT64)]);
        graph.node_named("out", "Loop", &[&turns, "", &flat], &[Attribute::Graph("body", &turn)]);
    })
}
