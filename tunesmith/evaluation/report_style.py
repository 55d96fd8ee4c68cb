"""How the report looks: light and dark, on a desk, on a phone, on paper."""

from __future__ import annotations

STYLE = """
:root { color-scheme: light dark; --paper: #f7f6f2; --ink: #20252b; --soft: #5f6670; --line: #dedad0; --card: #fff;
  --accent: #2b6f8a; --good: #2d7d46; --bad: #b3402f; --plain: #96731d; --m0: #8b8f98; --m1: #2b6f8a; --m2: #b0702a;
  --m3: #6d59a3; --m4: #3d8558; --m5: #a84a72; --m6: #64748b; --m7: #8a8420; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e7e5e0; --soft: #a0a6af; --line: #363a41;
  --card: #1e2125; --accent: #7bbfd8; --good: #7fce97; --bad: #ef8d7d; --plain: #dcbf6a; --m0: #9aa0aa; --m1: #7bbfd8;
  --m2: #e0a566; --m3: #b3a1e6; --m4: #83cf9f; --m5: #e597b8; --m6: #a5b4c8; --m7: #d3cd70; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI",
  "Noto Sans", "Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.2rem 1.4rem 4rem; }
h1 { font-size: .95rem; font-weight: 600; color: var(--soft); margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.6rem 0 .9rem; }
.hero { background: var(--card); border: 1px solid var(--line); border-left: 8px solid var(--plain);
  border-radius: 12px; padding: 1.2rem 1.5rem 1.3rem; margin-top: .8rem; }
.hero.better { border-left-color: var(--good); } .hero.worse { border-left-color: var(--bad); }
.verdict { font-size: 1.8rem; line-height: 1.25; font-weight: 680; margin: 0 0 .5rem; overflow-wrap: anywhere; }
.better .verdict { color: var(--good); } .worse .verdict { color: var(--bad); }
.no_evidence .verdict { color: var(--plain); }
.hero p { margin: .35rem 0 0; max-width: 60rem; overflow-wrap: anywhere; } .answer { font-size: 1.12rem; }
.soft, small { color: var(--soft); font-size: .86rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem;
  margin-top: .9rem; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: .75rem .95rem;
  min-width: 0; }
.tile b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--soft); font-size: .82rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .45rem .55rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 550; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 8.5rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem; }
.plots figure { flex: 1 1 min(100%, 25rem); }
figure, article, .worth, .fold { background: var(--card); border: 1px solid var(--line); border-radius: 12px; margin: 0;
  padding: .9rem 1.1rem; min-width: 0; }
.plots figure.wide { flex-basis: 100%; overflow-x: auto; }
figcaption { font-weight: 600; font-size: .95rem; margin-bottom: .5rem; overflow-wrap: anywhere; }
figcaption small { display: block; font-weight: 400; }
svg { width: 100%; max-width: 38rem; height: auto; display: block; margin: 0 auto; }
figure.wide svg { min-width: 40rem; max-width: none; }
svg text { fill: var(--ink); font-size: 13px; } svg .soft { fill: var(--soft); font-size: 11.5px; }
svg .in { fill: var(--card); font-weight: 650; font-size: 12px; } svg.rows .soft { font-size: 12.5px; }
.worth { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 0 2rem; }
.worth h3 { margin: .2rem 0; font-size: .95rem; } ul { margin: .3rem 0 .6rem; padding-left: 1.2rem; }
li { overflow-wrap: anywhere; margin-bottom: .25rem; }
.filter { display: flex; flex-wrap: wrap; gap: .45rem; margin: 0 0 1rem; border: 0; padding: 0; }
.filter label { border: 1px solid var(--line); border-radius: 99px; padding: .25rem .8rem; background: var(--card);
  font-size: .88rem; cursor: pointer; } .filter input { accent-color: var(--accent); margin: 0 .35rem 0 0; }
article { margin-bottom: .7rem; padding: 0; }
summary { cursor: pointer; padding: .65rem 1.1rem; overflow-wrap: anywhere; } summary b { font-weight: 600; }
.num { color: var(--soft); font-variant-numeric: tabular-nums; margin-right: .5rem; }
.badge { float: right; font-size: .82rem; font-variant-numeric: tabular-nums; margin-left: .8rem; color: var(--plain); }
.up .badge { color: var(--good); } .down .badge { color: var(--bad); }
.inside { padding: 0 1.1rem 1rem; } .asked { white-space: pre-wrap; overflow-wrap: anywhere; margin: 0 0 .6rem; }
.replies { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1rem; }
.reply { border-left: 4px solid var(--line); padding-left: .8rem; min-width: 0; unicode-bidi: isolate; }
.reply > b { font-size: .86rem; color: var(--soft); font-weight: 600; overflow-wrap: anywhere; }
.reply p { margin: .15rem 0 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; }
.reply summary { padding: .2rem 0; } .scores { font-size: .84rem; color: var(--soft); overflow-wrap: anywhere; }
.error { color: var(--bad); } .fold { margin-bottom: .7rem; padding: 0; }
pre { overflow-x: auto; font-size: .8rem; margin: 0; padding: 0 1.1rem 1rem; white-space: pre-wrap;
  overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0;
  padding: 1rem 1.1rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 40rem) { main { padding: 1.2rem .8rem 3rem; } .verdict { font-size: 1.4rem; }
  .hero { padding: 1rem 1rem 1.1rem; } .tiles { grid-template-columns: 1fr 1fr; } .tile b { font-size: 1.1rem; }
  figure, .worth { padding: .8rem .8rem; } .badge { margin-left: .4rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .5rem; } }
@media print { :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --accent: #2b6f8a;
  --good: #22693a; --bad: #a03020; --plain: #7a5c12; color-scheme: light; } body { font-size: 11px; }
  .filter { display: none; } article, figure, .tile { break-inside: avoid; } main { max-width: none; padding: 0; }
  details::details-content { content-visibility: visible; display: block; block-size: auto; }
  .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

# The filter needs no script: what is checked hides the questions of the other kinds. Browsers without :has() show all.
FILTERS = ("up", "down", "even", "failed", "cut")
FILTER_STYLE = "".join(f"main:has(#f-{kind}:checked) article:not(.{kind}) {{ display: none; }}\n" for kind in FILTERS)
