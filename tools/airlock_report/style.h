#pragma once

#include <string_view>

namespace airlock::report {

/// The page's style sheet: light, dark, narrow and printed. Colours are Okabe and Ito's, lighter
/// where the ground is dark.
inline constexpr std::string_view kStyleSheet = R"css(
:root{color-scheme:light dark;--ground:#fff;--ink:#1b1b1b;--soft:#555;--line:#c9c9c9;--card:#f5f5f2;
--note:#7a3b00;--link:#0b5394;--hatch:rgba(255,255,255,.72);
--tee:#009e73;--wire:#d98c00;--queue:#cc79a7;--server:#0072b2;--kernel:#56b4e9;--between:#8a8a8a;
--ring:#0072b2;--pool:#b8860b;--zmq:#d55e00}
@media (prefers-color-scheme:dark){:root{--ground:#15171a;--ink:#e9e9e6;--soft:#b0b0aa;--line:#44474c;
--card:#1f2226;--note:#f0b56a;--link:#8cc4f5;--hatch:rgba(0,0,0,.5);
--tee:#19b98b;--wire:#e69f00;--queue:#d98fb8;--server:#3d9bdc;--kernel:#7cc6f0;--between:#9a9a9a;
--ring:#3d9bdc;--pool:#e0b23c;--zmq:#ec7a2c}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"DejaVu Sans",sans-serif;overflow-wrap:anywhere}
main,header,footer{max-width:1080px;margin:0 auto;padding:0 16px}
h1{font-size:1.7rem;line-height:1.2;margin:1.2rem 0 .3rem}
h2{font-size:1.3rem;margin:2.6rem 0 .4rem;padding-top:.6rem;border-top:2px solid var(--line)}
h3{font-size:1.05rem;margin:1.6rem 0 .3rem}
p{margin:.3rem 0 .6rem;max-width:75ch}
a{color:var(--link)}
nav ul,.legend,.notes{list-style:none;margin:.3rem 0;padding:0}
nav ul{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem}
.soft,.ylabel,.xlabel,footer{color:var(--soft);font-size:.875rem}
.number{display:inline-block;min-width:1.7em;padding:0 .35em;margin-right:.35em;border-radius:.3em;
background:var(--ink);color:var(--ground);text-align:center;font-size:.85em}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(300px,100%),1fr));gap:16px}
.card{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:.8rem 1rem}
.card h3{margin:0 0 .4rem}
dl{display:grid;grid-template-columns:fit-content(45%) minmax(0,1fr);gap:.1rem .9rem;margin:.3rem 0}
dt{color:var(--soft)}
dd{margin:0;min-width:0}
.notes{color:var(--note)}
.notes li::before{content:"! ";font-weight:700}
details{margin:.4rem 0}
summary{cursor:pointer;color:var(--link);padding:.2rem 0}
.scroll{overflow-x:auto;max-width:100%;margin:.4rem 0 .8rem;border:1px solid var(--line);border-radius:6px}
table{border-collapse:collapse;width:100%;font-size:.875rem;font-variant-numeric:tabular-nums;
overflow-wrap:normal}
caption{text-align:left;padding:.45rem .6rem;color:var(--soft)}
th,td{padding:.25rem .6rem;text-align:right;white-space:nowrap;border-top:1px solid var(--line)}
thead th{vertical-align:bottom}
th.text,td.text,tbody th{text-align:left}
tbody th{font-weight:600}
figure{margin:.6rem 0 1.1rem;break-inside:avoid}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.15rem}
svg{display:block}
svg.defs{position:absolute}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.1rem;font-size:.875rem}
.legend li{display:flex;align-items:center;gap:.4em}
.bars .grid{display:grid;grid-template-columns:auto minmax(0,1fr) auto;column-gap:.7em;font-size:.875rem}
.bars .labels div,.bars .values div{height:30px;line-height:30px;white-space:nowrap;overflow:hidden;
text-overflow:ellipsis}
.bars .labels{max-width:12em}
.bars .values{text-align:right;font-variant-numeric:tabular-nums}
.bars svg{background:linear-gradient(var(--line),var(--line)) left/1px 100% no-repeat}
.plot{--left:4.6rem;--right:1.6rem;font-size:.8125rem}
.plot p{margin:0;max-width:none}
.plot .body{padding:.5rem var(--right) 0 var(--left);position:relative}
.plot .marks{padding:0 var(--right) 0 var(--left)}
.plot .marks div{position:relative;height:1.25em}
.plot .marks span{position:absolute;white-space:nowrap;line-height:1.25}
.plot .area{position:relative;height:170px}
.plot .area svg{width:100%;height:100%;overflow:visible}
.plot .yaxis{position:absolute;left:0;top:.5rem;height:170px;width:calc(var(--left) - .5rem)}
.plot .yaxis span{position:absolute;right:0;transform:translateY(50%);white-space:nowrap;line-height:1}
.plot .area span.limit{position:absolute;right:.3em;white-space:nowrap;line-height:1.3;padding:0 .3em;
background:var(--ground);color:var(--note);border-radius:3px}
.plot .xaxis{position:relative;height:1.5em;margin-top:.25rem}
.plot .xaxis span{position:absolute;transform:translateX(-50%);white-space:nowrap}
.plot .xlabel{text-align:center}
.plot path,.plot rect{vector-effect:non-scaling-stroke}
.rule{stroke:var(--line);stroke-width:1;fill:none}
.mark{stroke:var(--ink);stroke-width:1.5;stroke-dasharray:5 3;fill:none}
.limit{stroke:var(--note);stroke-width:2;stroke-dasharray:9 4;fill:none}
.hatch{fill:none;stroke:var(--hatch);stroke-width:1.3}
.hatch circle{fill:var(--hatch);stroke:none}
.s-tee{fill:var(--tee)}.s-wire{fill:var(--wire)}.s-queue{fill:var(--queue)}.s-server{fill:var(--server)}
.s-kernel{fill:var(--kernel)}.s-between{fill:var(--between)}.s-ring{fill:var(--ring)}.s-pool{fill:var(--pool)}.s-zmq{fill:var(--zmq)}
.o-ring{stroke:var(--ring);stroke-width:1}.o-pool{stroke:var(--pool);stroke-width:1}.o-zmq{stroke:var(--zmq);stroke-width:1}
.yes{color:var(--tee);font-weight:700}
.no{color:var(--zmq);font-weight:700}
footer{margin:3rem auto 1.5rem}
@media (max-width:600px){body{font-size:15px}main,header,footer{padding:0 12px}.plot{--left:4rem;--right:1.1rem}
.bars .labels{max-width:8em}}
@media print{:root{color-scheme:light;--ground:#fff;--ink:#000;--soft:#444;--line:#bbb;--card:#fff;--note:#7a3b00;
--link:#000;--hatch:rgba(255,255,255,.72);--tee:#009e73;--wire:#d98c00;--queue:#cc79a7;--server:#0072b2;
--kernel:#56b4e9;--between:#8a8a8a;--ring:#0072b2;--pool:#b8860b;--zmq:#d55e00}
@page{margin:14mm}
body{font-size:10.5pt}main,header,footer{max-width:none;padding:0}nav,details:not([open]){display:none}
.card,tr,.legend,.scroll{break-inside:avoid}.number{background:none;color:#000;border:1px solid #000}h2,h3,figcaption,caption{break-after:avoid}
.scroll{overflow:visible;border:0}table{font-size:7.5pt}th,td{padding:.15rem .3rem;white-space:normal}}
)css";

}  // namespace airlock::report
