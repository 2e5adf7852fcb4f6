//! Colors for light and dark backgrounds, and text. Used by [`crate::picture::draw`].

use std::io;

use plotters::{
    coord::Shift,
    prelude::{
        DrawingArea, DrawingAreaErrorKind, FontStyle, FontTransform, RGBColor, SVGBackend, Text,
        TextStyle,
    },
    style::text_anchor::{HPos, Pos, VPos},
};

const FONTS: &str = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif";
/// Font sizes, at twice the intended size like all lengths of the picture.
pub(crate) const TITLE: f64 = 42.0;
pub(crate) const HEADING: f64 = 31.0;
pub(crate) const BODY: f64 = 26.5;
/// The backend divides font sizes by this.
const FONT_SCALE: f64 = 1.24;

pub(crate) type Root<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(crate) type Failure = DrawingAreaErrorKind<io::Error>;

/// Colors for one background: those of GitHub.
pub(crate) struct Theme {
    pub name: &'static str,
    pub background: RGBColor,
    pub text: RGBColor,
    pub muted: RGBColor,
    pub grid: RGBColor,
    pub latency: RGBColor,
    pub failed: RGBColor,
}

pub(crate) const THEMES: [Theme; 2] = [
    Theme {
        name: "light",
        background: RGBColor(0xff, 0xff, 0xff),
        text: RGBColor(0x1f, 0x23, 0x28),
        muted: RGBColor(0x59, 0x63, 0x6e),
        grid: RGBColor(0xd1, 0xd9, 0xe0),
        latency: RGBColor(0x09, 0x69, 0xda),
        failed: RGBColor(0xcf, 0x22, 0x2e),
    },
    Theme {
        name: "dark",
        background: RGBColor(0x0d, 0x11, 0x17),
        text: RGBColor(0xf0, 0xf6, 0xfc),
        muted: RGBColor(0x91, 0x98, 0xa1),
        grid: RGBColor(0x3d, 0x44, 0x4d),
        latency: RGBColor(0x44, 0x93, 0xf8),
        failed: RGBColor(0xff, 0x7b, 0x72),
    },
];

impl Theme {
    pub(crate) fn font(&self, size: f64) -> Font {
        Font { size, color: self.muted, bold: false, anchor: HPos::Left, upward: false }
    }
}

/// How a text looks. Its position is the left or right end of its baseline, or the middle.
#[derive(Clone, Copy)]
pub(crate) struct Font {
    pub size: f64,
    pub color: RGBColor,
    pub bold: bool,
    pub anchor: HPos,
    /// Runs from the bottom to the top.
    pub upward: bool,
}

impl Font {
    pub(crate) fn write(self, root: &Root<'_>, text: &str, at: (i32, i32)) -> Result<(), Failure> {
        let weight = if self.bold { FontStyle::Bold } else { FontStyle::Normal };
        let style = TextStyle::from((FONTS, self.size * FONT_SCALE, weight)).color(&self.color);
        let turned = if self.upward { FontTransform::Rotate270 } else { FontTransform::None };
        let style = style.transform(turned).pos(Pos::new(self.anchor, VPos::Bottom));
        root.draw(&Text::new(text.to_owned(), at, style))
    }
}
