//! What can be known of a JPEG before it is decoded (ITU T.81, annex B): whether it is whole, and how much memory its
//! coefficients will take. Never decodes.

use std::ops::RangeInclusive;

const STUFFED: u8 = 0x00;
const TEMPORARY: u8 = 0x01;
const RESTARTS: RangeInclusive<u8> = 0xD0..=0xD7;
const START_OF_IMAGE: u8 = 0xD8;
const END_OF_IMAGE: u8 = 0xD9;
const START_OF_SCAN: u8 = 0xDA;
const FILL: u8 = 0xFF;
/// Bytes of a coefficient in the decoder.
const COEFFICIENT: u64 = 2;

/// What a walk over the markers shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Survey {
    /// It reaches its end marker. `zune-jpeg` fills what is missing with grey, so its word is not enough. What follows the
    /// marker does not matter; cameras put thumbnails there.
    pub(super) is_whole: bool,
    /// What the decoder keeps until the last scan: the coefficients of the whole picture, where its components do not
    /// all come in the first one (every progressive JPEG, and a few others); else none.
    pub(super) coefficient_bytes: u64,
}

/// Walks a JPEG's markers, its scans' data included.
pub(super) fn survey(bytes: &[u8]) -> Survey {
    let (mut survey, mut frame) = (Survey::default(), None::<Frame>);
    let mut at = 0;
    while let Some(found) = bytes[at.min(bytes.len())..].iter().position(|&b| b == FILL) {
        at += found; // past the scan's data
        let Some(&marker) = bytes.get(at + 1) else { break };
        match marker {
            END_OF_IMAGE => return Survey { is_whole: true, ..survey },
            FILL => at += 1,
            STUFFED | TEMPORARY | START_OF_IMAGE => at += 2,
            marker if RESTARTS.contains(&marker) => at += 2,
            _ => {
                let Some(length) = bytes.get(at + 2..at + 4) else { break };
                let end = at + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                let segment = bytes.get(at + 4..end).unwrap_or_default();
                if is_start_of_frame(marker) {
                    frame = Frame::read(marker, segment);
                } else if marker == START_OF_SCAN
                    && let (Some(frame), Some(&components)) = (&frame, segment.first())
                    && (frame.is_progressive || components < frame.components)
                {
                    survey.coefficient_bytes = survey.coefficient_bytes.max(frame.samples * COEFFICIENT);
                }
                at = end.max(at + 2);
            }
        }
    }
    survey
}

/// SOF0 to SOF15; what lies between them are tables and extensions.
fn is_start_of_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

/// A frame header (B.2.2).
struct Frame {
    is_progressive: bool,
    components: u8,
    /// Of all components, whole blocks.
    samples: u64,
}

impl Frame {
    fn read(marker: u8, segment: &[u8]) -> Option<Self> {
        let &[_precision, h0, h1, w0, w1, components, ref rest @ ..] = segment else { return None };
        let (height, width) = (u64::from(u16::from_be_bytes([h0, h1])), u64::from(u16::from_be_bytes([w0, w1])));
        let factors =
            rest.chunks_exact(3).take(components.into()).map(|c| (u64::from(c[1] >> 4), u64::from(c[1] & 15)));
        let across = factors.clone().map(|f| f.0).max()?.max(1);
        let down = factors.clone().map(|f| f.1).max()?.max(1);
        let units = width.div_ceil(8 * across) * height.div_ceil(8 * down);
        let samples = units * 64 * factors.map(|(h, v)| h * v).sum::<u64>();
        Some(Self { is_progressive: matches!(marker, 0xC2 | 0xC6 | 0xCA | 0xCE), components, samples })
    }
}
