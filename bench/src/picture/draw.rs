//! Writes the picture as SVG, for a light and a dark background.

use std::{
    fmt::Display,
    fs, io,
    ops::{Range, RangeInclusive},
    path::{Path, PathBuf},
    time::Duration,
};

use plotters::{
    coord::{Shift, types::RangedCoordf64},
    prelude::{
        Cartesian2d, Color, DrawingArea, DrawingAreaErrorKind, FontStyle, IntoDrawingArea,
        IntoLogRange, LogCoord, PathElement, Polygon, RGBColor, Rectangle, SVGBackend, Text,
        TextStyle,
    },
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::{
    picture::{
        axis,
        bins::{self, Bin, Summary},
    },
    stats::{millis, real},
};

/// Twice the intended size, because the backend rounds coordinates to whole units. All lengths
/// below are in these units.
const SIZE: (u32, u32) = (1800, 1060);
const LEFT: i32 = 120;
const RIGHT: i32 = 1760;
/// Top and bottom of both plots.
const PLOTS: [(i32, i32); 2] = [(210, 540), (660, 990)];
const FONTS: &str = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif";
const TITLE: f64 = 40.0;
const HEADING: f64 = 34.0;
const BODY: f64 = 28.0;
/// The backend divides font sizes by this.
const FONT_SCALE: f64 = 1.24;
/// Height of the marks of failed requests.
const MARK: i32 = 14;

type Root<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Plot<'a> = DrawingArea<SVGBackend<'a>, Cartesian2d<RangedCoordf64, LogCoord<f64>>>;
type Failure = DrawingAreaErrorKind<io::Error>;

/// What is drawn.
pub(crate) struct Picture {
    pub length: Duration,
    /// Time from one update to the next.
    pub period: Duration,
    /// When updates start.
    pub updates: Vec<Duration>,
    pub clients: usize,
    pub workers: usize,
    pub panels: [Panel; 2],
}

/// One run.
pub(crate) struct Panel {
    pub title: &'static str,
    pub summary: Summary,
    pub bins: Vec<Bin>,
}

/// Colors for one background: those of GitHub.
struct Theme {
    name: &'static str,
    background: RGBColor,
    text: RGBColor,
    muted: RGBColor,
    grid: RGBColor,
    latency: RGBColor,
    failed: RGBColor,
}

const THEMES: [Theme; 2] = [
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
        failed: RGBColor(0xf8, 0x51, 0x49),
    },
];

/// Writes one file per theme and returns their paths.
pub(crate) fn write(picture: &Picture, directory: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |path: &Path, error: &dyn Display| format!("{}: {error}", path.display());
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    let write = |theme: &Theme| {
        let path = directory.join(format!("update-{}.svg", theme.name));
        let svg = Drawing { picture, theme }.svg().map_err(|error| failed(&path, &error))?;
        fs::write(&path, svg).map_err(|error| failed(&path, &error))?;
        Ok(path)
    };
    THEMES.iter().map(write).collect()
}

/// How a text looks. Its position is the left or right end of its baseline, or the middle.
#[derive(Clone, Copy)]
struct Font {
    size: f64,
    color: RGBColor,
    bold: bool,
    anchor: HPos,
}

struct Drawing<'a> {
    picture: &'a Picture,
    theme: &'a Theme,
}

impl Drawing<'_> {
    fn svg(&self) -> Result<String, Failure> {
        let mut svg = String::new();
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&self.theme.background)?;
        self.head(&root)?;
        let decades = axis::decades(self.picture.panels.iter().flat_map(|panel| &panel.bins));
        for (panel, (top, bottom)) in self.picture.panels.iter().zip(PLOTS) {
            let times = 0.0..self.picture.length.as_secs_f64();
            let latencies = 10_f64.powi(*decades.start())..10_f64.powi(*decades.end());
            let pixels = (LEFT..RIGHT, bottom..top);
            let plot: Plot<'_> =
                root.apply_coord_spec(Cartesian2d::new(times, latencies.log_scale(), pixels));
            self.heading(&root, panel, top)?;
            self.axes(&root, &plot, decades.clone())?;
            self.updates(&root, &plot)?;
            self.failures(&root, &plot, panel)?;
            self.latencies(&plot, panel)?;
        }
        root.present()?;
        drop(root);
        Ok(svg)
    }

    fn font(&self, size: f64) -> Font {
        Font { size, color: self.theme.muted, bold: false, anchor: HPos::Left }
    }

    /// Writes the title and explains the marks.
    fn head(&self, root: &Root<'_>) -> Result<(), Failure> {
        let Picture { period, clients, workers, .. } = self.picture;
        let title = format!("Request latency with a new model every {} s", period.as_secs());
        let font = Font { color: self.theme.text, bold: true, ..self.font(TITLE) };
        write_text(root, &title, (LEFT, 56), font)?;
        let what = format!("MiniLM embeddings, {clients} clients, {workers} CPU cores");
        let how = "Line: median per 50 ms, band: up to the slowest request";
        write_text(root, &format!("{what}. {how}."), (LEFT, 102), self.font(BODY))
    }

    /// Writes a panel's title and figures above its plot.
    fn heading(&self, root: &Root<'_>, panel: &Panel, top: i32) -> Result<(), Failure> {
        let Summary { requests, failed, p99, longest, .. } = panel.summary;
        let y = top - 20;
        let font = Font { color: self.theme.text, bold: true, ..self.font(HEADING) };
        write_text(root, panel.title, (LEFT, y), font)?;
        let color = if failed > 0 { self.theme.failed } else { self.theme.text };
        let font = Font { color, anchor: HPos::Center, ..font };
        let failures = format!("{failed} of {requests} requests failed");
        write_text(root, &failures, (LEFT.midpoint(RIGHT), y), font)?;
        let times = format!("p99 {:.0} ms, longest {:.0} ms", millis(p99), millis(longest));
        let font = Font { anchor: HPos::Right, ..self.font(BODY) };
        write_text(root, &times, (RIGHT, y), font)
    }

    /// Draws the grid and the labels of both axes.
    fn axes(
        &self,
        root: &Root<'_>,
        plot: &Plot<'_>,
        decades: RangeInclusive<i32>,
    ) -> Result<(), Failure> {
        let length = self.picture.length;
        for exponent in decades {
            let latency = 10_f64.powi(exponent);
            let line = vec![(0.0, latency), (length.as_secs_f64(), latency)];
            plot.draw(&PathElement::new(line, self.theme.grid.stroke_width(2)))?;
            let (x, y) = plot.map_coordinate(&(0.0, latency));
            let font = Font { anchor: HPos::Right, ..self.font(BODY) };
            write_text(root, &axis::latency_label(exponent), (x - 12, y + 9), font)?;
        }
        let bottom = plot.get_y_axis_pixel_range().start;
        for second in axis::ticks(length) {
            let (x, _) = plot.map_coordinate(&(f64::from(second), 1.0));
            let font = Font { anchor: HPos::Center, ..self.font(BODY) };
            write_text(root, &format!("{second} s"), (x, bottom + 38), font)?;
        }
        Ok(())
    }

    /// Draws a line at the start of each update.
    fn updates(&self, root: &Root<'_>, plot: &Plot<'_>) -> Result<(), Failure> {
        let Range { start: bottom, end: top } = plot.get_y_axis_pixel_range();
        for at in &self.picture.updates {
            let (x, _) = plot.map_coordinate(&(at.as_secs_f64(), 1.0));
            let line = vec![(x, top), (x, bottom)];
            root.draw(&PathElement::new(line, self.theme.muted.stroke_width(2)))?;
            write_text(root, "update", (x + 10, top + 46), self.font(BODY))?;
        }
        Ok(())
    }

    /// Marks the time in which requests failed.
    fn failures(&self, root: &Root<'_>, plot: &Plot<'_>, panel: &Panel) -> Result<(), Failure> {
        let Range { start: bottom, end: top } = plot.get_y_axis_pixel_range();
        for run in bins::runs(&panel.bins, |bin| bin.failed > 0) {
            let x = |index| plot.map_coordinate(&(start_of(index), 1.0)).0;
            let (left, right) = (x(run.start), x(run.end));
            let shade = self.theme.failed.mix(0.2).filled();
            root.draw(&Rectangle::new([(left, top), (right, bottom)], shade))?;
            let mark = self.theme.failed.filled();
            root.draw(&Rectangle::new([(left, top), (right, top + MARK)], mark))?;
        }
        Ok(())
    }

    /// Draws the band from the median to the slowest request, and the median.
    fn latencies(&self, plot: &Plot<'_>, panel: &Panel) -> Result<(), Failure> {
        for run in bins::runs(&panel.bins, |bin| bin.latency.is_some()) {
            let median = steps(&panel.bins, &run, |(median, _)| median);
            let slowest = steps(&panel.bins, &run, |(_, slowest)| slowest);
            let outline: Vec<(f64, f64)> =
                slowest.into_iter().chain(median.iter().rev().copied()).collect();
            plot.draw(&Polygon::new(outline, self.theme.latency.mix(0.35)))?;
            plot.draw(&PathElement::new(median, self.theme.latency.stroke_width(4)))?;
        }
        Ok(())
    }
}

/// Returns the corners of a line that is level within each bin.
fn steps(bins: &[Bin], run: &Range<usize>, value: impl Fn((f64, f64)) -> f64) -> Vec<(f64, f64)> {
    let corners = run.clone().filter_map(|index| {
        let latency = value(bins[index].latency?);
        Some([(start_of(index), latency), (start_of(index + 1), latency)])
    });
    corners.flatten().collect()
}

/// Returns the seconds at which a bin starts.
fn start_of(index: usize) -> f64 {
    real(index as u64) * bins::WIDTH.as_secs_f64()
}

fn write_text(root: &Root<'_>, text: &str, at: (i32, i32), font: Font) -> Result<(), Failure> {
    let weight = if font.bold { FontStyle::Bold } else { FontStyle::Normal };
    let style = TextStyle::from((FONTS, font.size * FONT_SCALE, weight)).color(&font.color);
    root.draw(&Text::new(text.to_owned(), at, style.pos(Pos::new(font.anchor, VPos::Bottom))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bin(latency: Option<(f64, f64)>, failed: usize) -> Bin {
        Bin { latency, failed }
    }

    fn picture() -> Picture {
        let second = Duration::from_secs(1);
        let summary = |failed| Summary {
            requests: 1234,
            failed,
            p50: second / 100,
            p99: second / 50,
            longest: second / 20,
        };
        let steady = vec![bin(Some((8.0, 20.0)), 0); 20];
        let mut broken = steady.clone();
        broken[10..14].fill(bin(None, 5));
        Picture {
            length: second,
            period: second,
            updates: vec![second / 2],
            clients: 8,
            workers: 2,
            panels: [
                Panel { title: "one", summary: summary(0), bins: steady },
                Panel { title: "two", summary: summary(20), bins: broken },
            ],
        }
    }

    #[test]
    fn picture_has_text_a_gap_and_marks_of_failures() {
        let picture = picture();
        let [light, dark] =
            THEMES.map(|theme| Drawing { picture: &picture, theme: &theme }.svg().unwrap());
        for text in ["20 of 1234 requests failed", "update", "100 ms", "sans-serif"] {
            assert!(light.contains(text), "{text} is missing: {light}");
        }
        let count = |text: &str| light.matches(text).count();
        assert_eq!((count("<polygon"), count("<rect")), (3, 3));
        assert!(light.contains("#FFFFFF") && !dark.contains("#FFFFFF"));
    }

    #[test]
    fn steps_are_level_within_a_bin() {
        let bins = [bin(Some((1.0, 2.0)), 0), bin(Some((3.0, 4.0)), 0)];
        let expected = [(0.0, 2.0), (0.05, 2.0), (0.05, 4.0), (0.1, 4.0)];
        assert_eq!(steps(&bins, &(0..2), |(_, slowest)| slowest), expected);
    }
}
