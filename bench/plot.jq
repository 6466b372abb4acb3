# One picture of bench/plot, by its name. Nothing if nobody has measured it.

def tenth: . * 10 | round / 10;
# 23 as 23.0.
def fixed: tenth | tostring | if contains(".") then . else "\(.).0" end;
# 10000 as 10,000.
def grouped: tostring | if length > 3 then "\(.[:-3]),\(.[-3:])" else . end;

def blue: "#0969da";
def orange: "#bc4c00";
def grey: "#8c959f";
def faint: "fill=\"#59636e\"";
def bold: "font-weight=\"bold\"";
def text($x; $y; $anchor; $more): "<text x=\"\($x)\" y=\"\($y)\" text-anchor=\"\($anchor)\" \($more)>\(.)</text>";
def line($x1; $y1; $x2; $y2; $colour; $more):
    "<line x1=\"\($x1)\" y1=\"\($y1)\" x2=\"\($x2)\" y2=\"\($y2)\" stroke=\"\($colour)\" \($more)/>";

# White is behind all of it: pages are light or dark, letters are dark.
def picture($height; $title; content):
    "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 760 \($height)\" width=\"760\" height=\"\($height)\" role=\"img\" font-family=\"sans-serif\" font-size=\"13\" fill=\"#1f2328\">",
    "<title>\($title)</title>",
    "<rect width=\"760\" height=\"\($height)\" fill=\"#ffffff\"/>",
    ($title | text(20; 28; "start"; "font-size=\"15\" \(bold)")),
    content,
    "</svg>";

def called: {
    "meshd preserve": "meshd, preserve",
    "meshd host": "meshd, host",
    "meshd encrypted": "meshd, encrypted",
    "meshd nftables": "meshd, nftables",
    "by hand": "nft + ipvsadm by hand",
    "swarm": "Swarm’s rules",
    "haproxy": "haproxy, TCP",
    "nginx": "nginx, stream"}[.] // .;

# Ways from above to below, the cheapest first. Each panel has a scale of its own: a connection costs several requests.
def panel($x; $title; value):
    . as $ways | (map(value) | max) as $most |
    ($title | text($x; 60; "start"; faint)),
    ($ways | to_entries[] | (76 + 30 * .key) as $y | .value | (value * 190 / $most | [., 0] | max | tenth) as $width |
        "<rect x=\"\($x)\" y=\"\($y)\" width=\"\($width)\" height=\"20\" fill=\"\(if .ours then blue else grey end)\"/>",
        (value | fixed | text($x + $width + 6 | tenth; $y + 15; "start"; ""))),
    line($x; 70; $x; 72 + 30 * ($ways | length); "#59636e"; "");

def bars($nodes; $title):
    map(select(.nodes == $nodes and .ports == 1)) |
    (.[] | select(.variant == "direct")) as $direct |
    def added(rate): 1e6 / rate - 1e6 / ($direct | rate);
    map(select(.variant != "direct") | {
        name: (.variant | called),
        ours: (.variant | startswith("meshd")),
        connection: added(.connections_per_second),
        request: added(.requests_per_second)}) | sort_by(.connection) |
    select(length > 0) |
    picture(86 + 30 * length; $title;
        (to_entries[] | .key as $place | .value |
            .name | text(190; 91 + 30 * $place; "end"; if startswith("meshd") then bold else "" end)),
        panel(200; "µs a connection"; .connection),
        panel(490; "µs a request"; .request));

# How ways bear more ports, on a logarithmic scale: maps do not mind, rules one after the other do.
def ports:
    map(select(.nodes == 1)) | select(map(.ports) | unique | length > 1) |
    def of($variant): map(select(.variant == $variant)) | sort_by(.ports);
    (map(.connections_per_second) | max / 1000 | ceil * 1000) as $top |
    def x: .ports | 90 + 130 * log10 | tenth;
    def height: 350 - 280 * . / $top | tenth;
    def y: .connections_per_second | height;
    # Where a number lies on a line, it stays legible.
    def halo: "stroke=\"#ffffff\" stroke-width=\"4\" paint-order=\"stroke\"";
    def series($variant; $colour; below):
        of($variant) | select(length > 1) |
        "<polyline points=\"\(map("\(x),\(y)") | join(" "))\" fill=\"none\" stroke=\"\($colour)\" stroke-width=\"2.5\"/>",
        (.[] | "<circle cx=\"\(x)\" cy=\"\(y)\" r=\"4\" fill=\"\($colour)\"/>",
            (x as $x | y as $y | .connections_per_second | round | grouped |
                if below and $y < 320 then text($x; $y + 20; "end"; halo) else text($x - 2; $y - 10; "start"; halo) end)),
        (last | x as $x | y as $y | .variant | called | text($x + 14; $y + 5; "start"; "fill=\"\($colour)\" \(bold)"));
    picture(410; "Connections per second, by published ports, on one node (more is better)";
        (range(0; $top + 1; 1000) | height as $y | line(70; $y; 630; $y; "#d1d9e0"; ""), (grouped | text(60; $y + 5; "end"; faint))),
        (range(0; 5) | pow(10; .) | {ports: .} | x as $x | line($x; 350; $x; 356; "#59636e"; ""), (.ports | grouped | text($x; 374; "middle"; faint))),
        ("published ports" | text(350; 396; "middle"; faint)),
        (of("direct")[] | y as $y | line(70; $y; 630; $y; grey; "stroke-width=\"2\" stroke-dasharray=\"6 5\""),
            ("direct" | text(640; $y + 5; "start"; faint))),
        series("meshd"; blue; false),
        series("swarm"; orange; true));

[inputs | fromjson? | objects] |
if $name == "one-node" then bars(1; "What each way adds to the direct one, on one node (less is better)")
elif $name == "two-nodes" then bars(2; "What each way adds to the direct one, on two nodes (less is better)")
else ports end
