"""How the page looks: system fonts, light and dark as the reader's system is, paper always light.

Colours are chosen for contrast: text at least 4.5:1 on what it stands on, lines and marks at least 3:1 (WCAG 2.2 AA);
tests/fer_scale/test_report_in_a_browser.py has axe check it in both.
"""

_LIGHT = """\
--paper: #fff; --raised: #f5f7f9; --ink: #1b1f24; --soft: #525b66; --rule: #cfd6de; --accent: #0b5cad;
--warm: #fff4d6; --bad: #a40e26; --on: #fff;
--c0: #0b62a4; --c1: #b8460e; --c2: #00724f; --c3: #8e3f8a; --c4: #7a5c00; --c5: #0b6f7c; --c6: #a8324a; --c7: #4b5563;
--h0: #fff; --h1: #e8f0f9; --h2: #d6e5f4; --h3: #c1d8ee; --h4: #a9c8e7; --h5: #8fb7df;
--h6: #2f6fb0; --h7: #2563a3; --h8: #1b5796; --h9: #124b88; --h10: #0a3f78; --most: #fff;"""
_DARK = """\
--paper: #14171c; --raised: #1c2128; --ink: #e6e9ed; --soft: #a9b3be; --rule: #3a424d; --accent: #7ab8ff;
--warm: #3d3414; --bad: #ff8f9d; --on: #14171c;
--c0: #6db6ff; --c1: #ff9d6b; --c2: #4fd1a5; --c3: #d9a0e0; --c4: #e6c35c; --c5: #5fd4e4; --c6: #ff8fa3; --c7: #b6c0cc;
--h0: #14171c; --h1: #16263a; --h2: #1a3250; --h3: #1e3f66; --h4: #234c7d; --h5: #295a94;
--h6: #6aa6e0; --h7: #7fb4e8; --h8: #95c2ef; --h9: #abd0f5; --h10: #c2defa; --most: #14171c;"""
_RUNS = "\n".join(f".s{n} {{ --c: var(--c{n}) }}" for n in range(8))
_SHADES = "\n".join(
    f".h{n} {{ background: var(--h{n})" + ("; color: var(--most) }" if n > 5 else " }") for n in range(11)
)

CSS = f"""
:root {{ color-scheme: light dark; {_LIGHT} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {_DARK} }} }}
{_RUNS}
{_SHADES}
* {{ box-sizing: border-box }}
html {{ -webkit-text-size-adjust: 100%; scroll-padding-top: 1rem }}
body {{ margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.5 system-ui, -apple-system, "Segoe UI",
  Roboto, "Noto Sans", "Liberation Sans", "DejaVu Sans", sans-serif; overflow-wrap: anywhere }}
header, main, footer {{ max-width: 74rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2.5rem) }}
header {{ padding-top: 2rem }}
h1 {{ font-size: clamp(1.5rem, 1.1rem + 1.6vw, 2.1rem); line-height: 1.2; margin: 0 0 .25rem; letter-spacing: -.015em }}
h2 {{ font-size: 1.35rem; line-height: 1.25; margin: 3rem 0 1rem; padding-top: .6rem;
  border-top: 2px solid var(--ink) }}
h3 {{ font-size: 1.05rem; margin: 1.75rem 0 .5rem }}
p {{ margin: .5rem 0; max-width: 46rem }}
a {{ color: var(--accent); text-underline-offset: .15em }}
:focus-visible {{ outline: 3px solid var(--accent); outline-offset: 2px }}
code {{ font: .9em ui-monospace, "SF Mono", Menlo, "DejaVu Sans Mono", monospace; background: var(--raised);
  padding: .1em .3em; border-radius: 4px }}
nav ul {{ display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; margin: 1rem 0 0 }}
nav a {{ display: inline-block; padding: .3rem 0 }}
.note, figcaption small, footer {{ color: var(--soft); font-size: .875rem }}
.warning {{ background: var(--warm); border-left: 4px solid var(--c4); padding: .5rem .75rem; border-radius: 4px }}
.skip {{ position: absolute; left: -100vw }}
.skip:focus {{ left: 1rem; top: .5rem; background: var(--paper); padding: .5rem }}

.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1rem }}
article {{ background: var(--raised); border: 1px solid var(--rule); border-radius: 10px; padding: 1rem 1.1rem }}
article h3 {{ margin: 0 0 .35rem; font-size: 1.1rem }}
.letter {{ font-weight: 700 }}
b.letter {{ margin-right: .15em; display: inline-block; min-width: 1.65em; padding: 0 .4em; text-align: center;
  border-radius: 5px; background: var(--c, var(--ink)); color: var(--on) }}
.state {{ font-weight: 600; border: 1px solid currentColor; border-radius: 99px; padding: .05rem .6rem;
  margin-left: .4rem; font-size: .85rem; white-space: nowrap }}
.state.bad {{ color: var(--bad) }}
dl {{ margin: .75rem 0; display: grid; gap: .2rem }}
dl div {{ display: grid; grid-template-columns: minmax(5.5rem, 7rem) 1fr; gap: .75rem }}
dl dd div {{ display: block }}
dt {{ color: var(--soft) }}
dd {{ margin: 0; font-variant-numeric: tabular-nums }}

.legend {{ list-style: none; display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; padding: 0; margin: .5rem 0 1rem }}
.legend li {{ display: flex; align-items: center; gap: .45rem }}
.panels {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 1.5rem 2rem;
  align-items: start; margin: 1rem 0 }}
figure {{ margin: 0 }}
figcaption {{ font-weight: 600; font-size: .95rem; margin-bottom: .35rem }}
figure p {{ margin: .15rem 0 0 }}
figure svg {{ display: block; width: 100%; height: auto; max-width: 25rem }}
figure img {{ max-width: 100%; image-rendering: pixelated; border-radius: 4px }}
svg text {{ font-size: 11px; fill: var(--soft); font-variant-numeric: tabular-nums }}
svg text.letter {{ fill: var(--ink); font-size: 12px; stroke: var(--paper); stroke-width: 3; paint-order: stroke }}
.grid {{ stroke: var(--rule); stroke-width: 1; stroke-dasharray: 1 3 }}
.axis {{ stroke: var(--soft); stroke-width: 1 }}
.even {{ stroke: var(--soft); stroke-width: 1; stroke-dasharray: 5 4 }}
.line {{ fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }}
.s1 .line, .s5 .line {{ stroke-dasharray: 7 4 }}
.s2 .line, .s6 .line {{ stroke-dasharray: 1.5 4 }}
.s3 .line, .s7 .line {{ stroke-dasharray: 9 4 1.5 4 }}
.band {{ fill: var(--c); opacity: .2 }}
.dot, .bar rect {{ fill: var(--c) }}
.mark {{ fill: var(--c) }}
.span {{ stroke: var(--c); stroke-width: 1.5; fill: none }}
.whisker {{ stroke: var(--ink); stroke-width: 1.5; fill: none }}

.scroll {{ overflow-x: auto; margin: 1rem 0; max-width: 100%; border-radius: 4px }}
table {{ border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal }}
caption {{ text-align: left; font-weight: 600; font-size: .95rem; padding-bottom: .35rem }}
th, td {{ text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--rule) }}
thead th, thead td {{ border-bottom: 1.5px solid var(--soft); vertical-align: bottom }}
tbody th {{ font-weight: 400; color: var(--soft) }}
tbody th {{ min-width: 8rem }}
.short tbody th {{ min-width: 2rem }}
.short td, .events td, .events tbody th {{ white-space: nowrap; min-width: 0 }}
.short td.long, .events td:last-child {{ white-space: normal; min-width: 15rem }}
.facts td {{ max-width: 24rem; min-width: 7rem; overflow-wrap: anywhere }}
.facts th[scope=row], .matrix th[scope=row] {{ position: sticky; left: 0; background: var(--paper) }}
.marked th[scope=row], .marked td {{ background: var(--warm) }}
.marked th {{ color: var(--ink) }}
.unlike {{ font-size: .75rem; border: 1px solid currentColor; border-radius: 4px; padding: 0 .3em;
  white-space: nowrap }}
.matrices {{ display: grid; gap: 1.5rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)) }}
.matrices > * {{ min-width: 0 }}
.matrix th, .matrix td {{ padding: .3rem .45rem; text-align: center; border: 1px solid var(--rule); min-width: 3.2rem }}
.matrix tbody th {{ min-width: 0 }}
.matrix th[scope=row] {{ text-align: right }}
.matrix thead th {{ font-weight: 400; font-size: .8rem }}
.matrix td span {{ display: block; font-size: .75rem }}
/* what stands in the heading above need not be seen twice */
.events caption {{ position: absolute; width: 1px; height: 1px; padding: 0; overflow: hidden; clip-path: inset(50%) }}
.events .scroll {{ position: relative; margin-top: .25rem }}
details {{ margin: 1rem 0 }}
summary {{ cursor: pointer; color: var(--accent); padding: .25rem 0 }}
.faces {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5rem, 1fr)); gap: 1rem }}
.faces img {{ width: 100% }}
.faces figcaption {{ font-weight: 400; font-size: .8rem; margin: 0 }}
footer {{ margin-top: 4rem; padding-top: 1rem; padding-bottom: 2rem; border-top: 1px solid var(--rule) }}

@media (max-width: 34rem) {{
  .events dl div {{ grid-template-columns: 1fr; gap: 0 }}
  .facts th[scope=row] {{ max-width: 9rem; overflow-wrap: anywhere }}
}}
@media print {{
  @page {{ margin: 14mm }}
  html {{ font-size: 9.5pt }}
  header, main, footer {{ max-width: none; padding: 0 }}
  nav, .skip {{ display: none }}
  h2 {{ margin-top: 1.6rem; break-after: avoid }}
  h3, caption, figcaption, summary, .legend {{ break-after: avoid }}
  article, figure, tr, .legend {{ break-inside: avoid }}
  .panels {{ grid-template-columns: 1fr 1fr; gap: 1rem 1.5rem }}
  .scroll {{ overflow: visible }}
  .facts th[scope=row], .matrix th[scope=row] {{ position: static }}
  table {{ font-size: 8pt }}
  th, td {{ overflow-wrap: anywhere }}
  .matrices {{ grid-template-columns: 1fr }}
  details::details-content {{ content-visibility: visible; block-size: auto }}
  td, .bar, .dot, .band, b.letter, .marked th, .warning {{ print-color-adjust: exact }}
}}
"""
