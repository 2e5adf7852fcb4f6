//! The title of the picture and the key to its marks. Used by [`crate::picture::draw`].

use plotters::{
    prelude::{Color, Cross, PathElement, Rectangle},
    style::RGBAColor,
};

use crate::picture::{
    bins,
    clients::PAUSE,
    draw::{LEFT, MARK, Picture},
    theme::{BODY, Failure, Font, Root, TITLE, Theme},
};

/// Baselines.
const TITLE_Y: i32 = 56;
const SETUP_Y: [i32; 2] = [106, 144];
const KEY_Y: i32 = 204;
/// Width of a symbol in the key.
const SYMBOL: i32 = 48;
/// Left ends of the entries.
const ENTRIES: [i32; 4] = [LEFT, 540, 885, 1215];

/// Writes the title, what was measured, and the key.
pub(crate) fn draw(picture: &Picture, theme: &Theme, root: &Root<'_>) -> Result<(), Failure> {
    let Picture { clients, workers, .. } = picture;
    let font = Font { color: theme.text, bold: true, ..theme.font(TITLE) };
    font.write(root, "Request latency while the model is updated", (LEFT, TITLE_Y))?;
    let pause = PAUSE.as_millis();
    let load = format!("{clients} clients that pause for {pause} ms on average");
    let setup = [
        &format!("MiniLM sentence embeddings on {workers} CPU cores. {load}, without retries."),
        "To update, onnxd loads the new model beside the old one; the FastAPI service stops and starts again.",
    ];
    for (text, y) in setup.into_iter().zip(SETUP_Y) {
        theme.font(BODY).write(root, text, (LEFT, y))?;
    }
    let width = bins::WIDTH.as_millis();
    let texts = [
        &format!("median of each {width} ms"),
        "up to the slowest",
        "failed requests",
        "update in progress",
    ];
    let middle = KEY_Y - 14;
    for (text, x) in texts.into_iter().zip(ENTRIES) {
        theme.font(BODY).write(root, text, (x + SYMBOL + 14, KEY_Y))?;
    }
    let [line, band, cross, update] = ENTRIES;
    let stroke = theme.latency.stroke_width(4);
    root.draw(&PathElement::new(vec![(line, middle), (line + SYMBOL, middle)], stroke))?;
    root.draw(&swatch(band, theme.latency.mix(BAND)))?;
    for x in [cross + SYMBOL / 4, cross + SYMBOL * 3 / 4] {
        root.draw(&Cross::new((x, middle), MARK, theme.failed.stroke_width(4)))?;
    }
    root.draw(&swatch(update, theme.muted.mix(SHADE)))?;
    let start = vec![(update, middle - 15), (update, middle + 15)];
    root.draw(&PathElement::new(start, theme.muted.stroke_width(3)))
}

/// Opacity of the band from the median to the slowest request.
pub(crate) const BAND: f64 = 0.35;
/// Opacity of the shade of updates.
pub(crate) const SHADE: f64 = 0.18;

fn swatch(x: i32, color: RGBAColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(x, KEY_Y - 29), (x + SYMBOL, KEY_Y + 1)], color.filled())
}
