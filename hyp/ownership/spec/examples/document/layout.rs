//! Where the boxes, lines and labels of the diagram lie.
//!
//! Boxes stand in columns and reach over one row or several. A line runs level from box to box, in a lane of its own, and
//! passes beneath a box in between; only boxes of one column that stand one above the other are joined by an upright line.
//! Its label is above it in the first gap between columns that it crosses. All lengths are in pixels.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A box to be drawn.
pub struct Place {
    /// Its column, from the left.
    pub column: usize,
    /// The rows that it reaches over.
    pub rows: RangeInclusive<usize>,
    /// What it says.
    pub title: &'static str,
    /// How it is filled.
    pub colour: &'static str,
    /// The calls that leave it where it is, a line for each word.
    pub stays: Vec<&'static str>,
}

/// A line to be drawn.
pub struct Edge {
    /// The box that it comes from.
    pub from: usize,
    /// The box that it goes to.
    pub to: usize,
    /// The calls that it stands for, a line for each word.
    pub titles: Vec<&'static str>,
}

/// A rectangle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Area {
    /// Left edge.
    pub x: i32,
    /// Top edge.
    pub y: i32,
    /// Width.
    pub width: i32,
    /// Height.
    pub height: i32,
}

/// Lines of text in an area.
#[derive(Debug)]
pub struct Text {
    /// Where it may be.
    pub area: Area,
    /// Its lines.
    pub lines: Vec<String>,
}

/// A box where it lies.
#[derive(Debug)]
pub struct Node {
    /// What it says.
    pub title: Text,
    /// The calls that leave it where it is.
    pub stays: Vec<&'static str>,
    /// How it is filled.
    pub colour: &'static str,
}

/// A line where it lies, with its label.
#[derive(Debug)]
pub struct Line {
    /// Its start.
    pub start: (i32, i32),
    /// Where its arrow points.
    pub end: (i32, i32),
    /// What it says.
    pub label: Text,
}

/// The whole of it.
#[derive(Debug)]
pub struct Drawing {
    /// Width of the canvas.
    pub width: i32,
    /// Height of the canvas.
    pub height: i32,
    /// The boxes.
    pub nodes: Vec<Node>,
    /// The lines.
    pub lines: Vec<Line>,
}

/// Height of a line of text.
pub const LINE: i32 = 15;
/// Width of a letter: more than any monospace font of the size takes.
pub const LETTER: i32 = 8;
const MARGIN: i32 = 16;
/// Least room between two boxes of a column.
const BETWEEN: i32 = 22;
/// Letters in a line of a box.
const BOX_LETTERS: usize = 15;

/// A row while its lanes are laid out.
struct Row {
    /// The level of each lane.
    levels: Vec<i32>,
    bottom: i32,
}

/// Lays out boxes and lines.
pub fn lay_out(places: Vec<Place>, edges: Vec<Edge>) -> Drawing {
    let (upright, level): (Vec<_>, Vec<_>) =
        edges.into_iter().partition(|edge| places[edge.from].column == places[edge.to].column);
    let lanes = lanes(&places, &level);
    let columns = columns(&places, &level);
    let rows = rows(&places, &level, &lanes, &upright);

    let area = |index: usize| box_area(index, &places, &level, &lanes, &columns, &rows);
    let mut lines = Vec::new();
    for (edge, (row, lane)) in level.iter().zip(&lanes) {
        let y = rows[*row].levels[*lane];
        let (left, right) = ends(&places, edge);
        let from_left = left == edge.from;
        let (x1, x2) = (area(left).x + area(left).width, area(right).x);
        let (start, end) = if from_left { ((x1, y), (x2, y)) } else { ((x2, y), (x1, y)) };
        let gap = columns[places[left].column].1;
        let width = label_width(&edge.titles);
        let height = LINE * edge.titles.len() as i32;
        let label = Area { x: x1 + (gap - width) / 2, y: y - 3 - height, width, height };
        lines.push(Line { start, end, label: text(label, &edge.titles) });
    }
    for edge in &upright {
        let (from, to) = (area(edge.from), area(edge.to));
        let x = from.x + from.width / 2;
        let (start, end) =
            if from.y < to.y { ((x, from.y + from.height), (x, to.y)) } else { ((x, from.y), (x, to.y + to.height)) };
        let (width, height) = (label_width(&edge.titles), LINE * edge.titles.len() as i32);
        let label = Area { x: x + 6, y: (start.1 + end.1 - height) / 2, width, height };
        lines.push(Line { start, end, label: text(label, &edge.titles) });
    }
    let nodes = places.iter().enumerate().map(|(index, place)| Node {
        title: Text { area: area(index), lines: wrap(place.title) },
        stays: place.stays.clone(),
        colour: place.colour,
    });
    let nodes: Vec<_> = nodes.collect();
    let width = nodes.iter().map(|node| node.title.area.x + node.title.area.width).max().unwrap_or(0) + MARGIN;
    let height = rows.last().map_or(0, |row| row.bottom) + MARGIN;
    Drawing { width, height, nodes, lines }
}

/// The row and the lane of each level line.
fn lanes(places: &[Place], edges: &[Edge]) -> Vec<(usize, usize)> {
    let mut order: Vec<usize> = (0..edges.len()).collect();
    order.sort_by_key(|&index| {
        let (left, right) = ends(places, &edges[index]);
        (places[right].column - places[left].column, index)
    });
    let mut lanes: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for index in order {
        let (left, right) = ends(places, &edges[index]);
        let row = *places[left].rows.start().max(places[right].rows.start());
        let (first, end) = (places[left].column, places[right].column);
        let in_the_way = lanes.iter().filter(|(_, (other, _))| *other == row).filter_map(|(other, (_, lane))| {
            let (other_left, other_right) = ends(places, &edges[*other]);
            let (other_first, other_end) = (places[other_left].column, places[other_right].column);
            (first < other_end && other_first < end).then_some(*lane + 1)
        });
        // A line that passes a box is beneath all that end there.
        let passed = lanes.iter().filter(|(_, (other, _))| *other == row).filter_map(|(other, (_, lane))| {
            let (other_left, other_right) = ends(places, &edges[*other]);
            let at = |place: usize| first < places[place].column && places[place].column < end;
            (at(other_left) || at(other_right)).then_some(*lane + 1)
        });
        let lane = in_the_way.chain(passed).max().unwrap_or(0);
        lanes.insert(index, (row, lane));
    }
    lanes.into_values().collect()
}

/// For each column the width of its boxes, and the width of the gap behind it.
fn columns(places: &[Place], edges: &[Edge]) -> Vec<(i32, i32)> {
    let count = places.iter().map(|place| place.column + 1).max().unwrap_or(0);
    let box_width = |column: usize| {
        let its = places.iter().filter(|place| place.column == column);
        let letters = its.flat_map(|place| {
            let stays = place.stays.iter().map(|call| call.len() + 2);
            wrap(place.title).into_iter().map(|line| line.len()).chain(stays)
        });
        letters.max().unwrap_or(0) as i32 * LETTER + 20
    };
    let gap = |column: usize| {
        let its = edges.iter().filter(|edge| places[ends(places, edge).0].column == column);
        its.map(|edge| label_width(&edge.titles) + 28).max().unwrap_or(40)
    };
    (0..count).map(|column| (box_width(column), gap(column))).collect()
}

/// The rows from top to bottom.
fn rows(places: &[Place], edges: &[Edge], lanes: &[(usize, usize)], upright: &[Edge]) -> Vec<Row> {
    let count = places.iter().map(|place| place.rows.end() + 1).max().unwrap_or(0);
    let mut rows = Vec::new();
    let mut top = MARGIN;
    for row in 0..count {
        let in_row: Vec<_> = edges.iter().zip(lanes).filter(|(_, (its, _))| *its == row).collect();
        let lane_count = in_row.iter().map(|(_, (_, lane))| lane + 1).max().unwrap_or(0);
        let mut levels: Vec<i32> = Vec::new();
        for lane in 0..lane_count {
            let its = in_row.iter().filter(|(_, (_, its))| *its == lane);
            let height = its.clone().map(|(edge, _)| edge.titles.len() as i32 * LINE).max().unwrap_or(0);
            let after_lane = levels.last().copied().unwrap_or(top) + height + 8;
            let passed = its.flat_map(|(edge, _)| {
                let (left, right) = ends(places, edge);
                let between = places[left].column + 1..places[right].column;
                let boxes = places.iter().filter(move |place| between.contains(&place.column));
                boxes.filter(|place| *place.rows.start() == row && *place.rows.end() == row)
            });
            let after_box = passed.map(|place| top + least_height(place) + 12).max().unwrap_or(0);
            levels.push(after_lane.max(after_box));
        }
        let single = places.iter().filter(|place| *place.rows.start() == row && *place.rows.end() == row);
        let boxes = top + single.map(least_height).max().unwrap_or(0);
        let bottom = levels.last().map_or(boxes, |level| boxes.max(level + 8));
        rows.push(Row { levels, bottom });
        let below = upright.iter().filter(|edge| {
            let upper = places[edge.from].rows.end().min(places[edge.to].rows.end());
            *upper == row
        });
        top = bottom + below.map(|edge| edge.titles.len() as i32 * LINE + 14).max().unwrap_or(0).max(BETWEEN);
    }
    rows
}

/// Where a box lies: as high as its own lines need, or as its rows if it has several.
fn box_area(
    index: usize,
    places: &[Place],
    edges: &[Edge],
    lanes: &[(usize, usize)],
    columns: &[(i32, i32)],
    rows: &[Row],
) -> Area {
    let place = &places[index];
    let x = MARGIN + columns[..place.column].iter().map(|(width, gap)| width + gap).sum::<i32>();
    let width = columns[place.column].0;
    let row_top = |row: usize| {
        let first = edges.iter().zip(lanes).filter(|(_, lane)| **lane == (row, 0));
        let label = first.map(|(edge, _)| edge.titles.len() as i32 * LINE + 8).max().unwrap_or(0);
        rows[row].levels.first().map_or(rows[row].bottom - least_height(place), |level| level - label)
    };
    let (first, last) = (*place.rows.start(), *place.rows.end());
    let y = row_top(first);
    let bottom = if first == last {
        let own = edges.iter().zip(lanes).filter(|(edge, _)| edge.from == index || edge.to == index);
        let lowest =
            own.filter(|(_, (row, _))| *row == first).map(|(_, (row, lane))| rows[*row].levels[*lane] + 8).max();
        lowest.unwrap_or(0).max(y + least_height(place))
    } else {
        rows[last].bottom
    };
    Area { x, y, width, height: bottom - y }
}

/// The left and the right box of a level line.
fn ends(places: &[Place], edge: &Edge) -> (usize, usize) {
    if places[edge.from].column < places[edge.to].column { (edge.from, edge.to) } else { (edge.to, edge.from) }
}

fn least_height(place: &Place) -> i32 {
    let stays = if place.stays.is_empty() { 0 } else { place.stays.len() as i32 * LINE + 6 };
    wrap(place.title).len() as i32 * LINE + stays + 14
}

fn label_width(titles: &[&str]) -> i32 {
    titles.iter().map(|title| title.len() as i32).max().unwrap_or(0) * LETTER
}

fn text(area: Area, titles: &[&str]) -> Text {
    Text { area, lines: titles.iter().map(|title| (*title).to_string()).collect() }
}

/// A title in lines of few words.
fn wrap(title: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in title.split(' ') {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= BOX_LETTERS => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

impl Area {
    fn overlaps(&self, other: &Self) -> bool {
        self.x < other.x + other.width
            && other.x < self.x + self.width
            && self.y < other.y + other.height
            && other.y < self.y + self.height
    }
}

impl Line {
    /// The line itself, without its ends, one pixel thick.
    fn area(&self) -> Area {
        let ((x1, y1), (x2, y2)) = (self.start, self.end);
        let (left, right, top, bottom) = (x1.min(x2), x1.max(x2), y1.min(y2), y1.max(y2));
        if top == bottom {
            Area { x: left + 1, y: top, width: right - left - 2, height: 1 }
        } else {
            Area { x: left, y: top + 1, width: 1, height: bottom - top - 2 }
        }
    }
}

impl Drawing {
    /// Everything that lies over something else, or over the edge, in words.
    pub fn overlaps(&self) -> Vec<String> {
        let boxes = self.nodes.iter().map(|node| (format!("box {:?}", node.title.lines), node.title.area));
        let labels = self.lines.iter().map(|line| (format!("label {:?}", line.label.lines), line.label.area));
        let lines = self.lines.iter().map(|line| (format!("line of {:?}", line.label.lines), line.area()));
        let all: Vec<_> = boxes.chain(labels).chain(lines).collect();
        let mut found = Vec::new();
        for (index, (name, area)) in all.iter().enumerate() {
            let over = all.iter().skip(index + 1).filter(|(_, other)| area.overlaps(other));
            found.extend(over.map(|(other, _)| format!("{name} and {other}")));
            let inside =
                area.x >= 0 && area.y >= 0 && area.x + area.width <= self.width && area.y + area.height <= self.height;
            if !inside {
                found.push(format!("{name} and the edge"));
            }
        }
        found
    }
}
