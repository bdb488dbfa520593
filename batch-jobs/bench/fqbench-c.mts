import { fakeQuantizeRows } from '../src/numeric/fake-quantize.ts';
import { noCherries } from '../src/numeric/quantizer.ts';
const columns = 4096, rows = 256;
const weight = Float32Array.from({length: rows*columns}, () => (Math.random()-0.5)*0.1);
const into = new Float32Array(rows*columns);
const s = new Float32Array(columns).fill(1);
for (const [levels, aligned, columnScales] of [['midRise',false,null],['asymmetric',false,null],['midRise',true,null],['asymmetric',false,s]] as const) {
  const cherries = { perRow: 16, columns: Uint32Array.from({length: rows*16}, (_, i) => (i%16)*200), shared: false };
  let best = Infinity;
  for (let k=0;k<4;k++){ const t=performance.now();
  fakeQuantizeRows({weight, columns, fromRow:0, untilRow: rows, grid:{bits:2,groupSize:128,levels,aligned}, cherries, columnScales, into});
  best=Math.min(best, performance.now()-t);} 
  console.log(levels, aligned, !!columnScales, (best*1e6/weight.length).toFixed(2), 'ns/weight');
}
