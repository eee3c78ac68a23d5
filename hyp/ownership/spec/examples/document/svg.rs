//! The diagram as SVG. It brings its own background, so that it can be read on a light page and on a dark one.

use crate::layout::{Area, Drawing, LINE, Text};
use std::fmt::Write;

/// Who makes a call, by how its name starts, and the colour in which it is written.
const CALLERS: [(&str, &str); 3] = [("guest_", "#1b6e20"), ("hyp_", "#9a4b00"), ("", "#1a4a9c")];
/// Height of the key below the drawing.
const KEY: i32 = 3 * LINE + 20;

/// The whole file.
pub fn render(drawing: &Drawing) -> String {
    let (width, height) = (drawing.width, drawing.height + KEY);
    let mut svg = String::new();
    let _ = writeln!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" height=\"{height}\" \
         font-family=\"ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono', monospace\" font-size=\"12\">\n\
         <title>The states of a page and the calls that change them</title>\n\
         <defs><marker id=\"arrow\" viewBox=\"0 0 8 8\" refX=\"8\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" \
         orient=\"auto-start-reverse\"><path d=\"M0,0 L8,4 L0,8 z\" fill=\"#444\"/></marker></defs>\n\
         <rect width=\"{width}\" height=\"{height}\" rx=\"8\" fill=\"#fdfdfc\"/>"
    );
    for line in &drawing.lines {
        let ((x1, y1), (x2, y2)) = (line.start, line.end);
        let _ = writeln!(
            svg,
            "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"#444\" marker-end=\"url(#arrow)\"/>"
        );
        label(&mut svg, &line.label);
    }
    for node in &drawing.nodes {
        let Area { x, y, width, height } = node.title.area;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{width}\" height=\"{height}\" rx=\"5\" fill=\"{}\" stroke=\"#444\"/>",
            node.colour
        );
        let stays = if node.stays.is_empty() { 0 } else { node.stays.len() as i32 * LINE + 6 };
        let used = node.title.lines.len() as i32 * LINE + stays;
        let mut at = y + (height - used) / 2 + LINE - 4;
        for line in &node.title.lines {
            let _ = writeln!(
                svg,
                "<text x=\"{}\" y=\"{at}\" text-anchor=\"middle\" font-weight=\"bold\" fill=\"#111\">{}</text>",
                x + width / 2,
                escaped(line)
            );
            at += LINE;
        }
        at += 6;
        for (number, call) in node.stays.iter().enumerate() {
            let (x, colour) = (x + width / 2, colour(call));
            let sign = if number == 0 { "\u{21bb} " } else { "" };
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{at}\" text-anchor=\"middle\" font-size=\"10\" fill=\"{colour}\">{sign}{}</text>",
                escaped(call)
            );
            at += LINE;
        }
    }
    key(&mut svg, drawing);
    svg.push_str("</svg>\n");
    svg
}

fn label(svg: &mut String, label: &Text) {
    let Area { x, y, width, .. } = label.area;
    for (number, line) in (1..).zip(&label.lines) {
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\" fill=\"{}\">{}</text>",
            x + width / 2,
            y + number * LINE - 4,
            colour(line),
            escaped(line)
        );
    }
}

fn key(svg: &mut String, drawing: &Drawing) {
    let lines = [
        ("guest_", "Green: a guest calls."),
        ("hyp_", "Brown: hyp itself does it, in the course of another call."),
        ("host_", "Blue: the host calls. Boxes have the colour of the page's owner, those of a dying guest are grey."),
    ];
    for (number, (caller, words)) in (0..).zip(lines) {
        let _ = writeln!(
            svg,
            "<text x=\"16\" y=\"{}\" fill=\"{}\">{words}</text>",
            drawing.height + 14 + number * LINE,
            colour(caller)
        );
    }
}

fn colour(call: &str) -> &'static str {
    CALLERS.iter().find(|(start, _)| call.starts_with(start)).map_or("#111", |(_, colour)| colour)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
