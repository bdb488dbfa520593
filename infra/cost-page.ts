/** infra/cost.md, from the synthesized templates and the table of prices; `npm run cost` writes it, a test compares it. */
import { machineTable } from '@cherryq/api/machines';
import { App, type Stack } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { format } from 'prettier';
import { estimateOf, idleCosts, models, settings, type TemplateResource } from './cost.ts';
import { parseContext, prefix } from './context.ts';
import { createInstall } from './install.ts';

const installs = {
  'as it comes (`network: endpoints`)': {},
  '`network: nat`': { network: 'nat' },
  '`network: public`': { network: 'public' },
  '`network: public`, `encryption: s3`, `front: restApi` with `waf`': {
    network: 'public',
    encryption: 's3',
    front: 'restApi',
    waf: true,
  },
};

const dollars = (amount: number): string => `$${amount.toFixed(2)}`;

/** @param context of cdk.json */
export async function costPage(context: Record<string, unknown>): Promise<string> {
  const lines = [
    '# What an install costs',
    '',
    'Written by `npm run cost` from the synthesized templates, the price table of `infra/cost.ts` and the machines of',
    '`api/src/machines.ts`: list prices of us-east-1, on demand, without tax, free tiers and transfer. Other regions cost more.',
    '',
    '## While nothing is compressed, a month',
    '',
    'No machine runs: all compute environments begin at zero vCPUs. What is kept in S3 comes on top ($0.023 a gigabyte).',
    '',
    '| install | what is billed | dollars |',
    '| --- | --- | ---: |',
  ];
  for (const [name, given] of Object.entries(installs)) {
    const costs = idleCosts(resourcesOf(context, given));
    const total = costs.reduce((sum, each) => sum + each.dollars, 0);
    lines.push(`| **${name}** | | **${dollars(total)}** |`);
    for (const each of costs) lines.push(`| | ${each.count} × ${each.what} | ${dollars(each.dollars)} |`);
  }
  lines.push(
    '',
    '## For each compressed model',
    '',
    'What `POST /v1/estimates` says before any job has been measured, for a text of 64 MB and no evaluation: of each GPU the cheapest machine',
    'whose memory is enough. A whole machine is reckoned, whatever share of it a job takes, and its start. Time is an assumption (an eighth of',
    "the GPU's peak), which the first jobs replace by what they took. Spot machines cost less, and what a reclaimed one had done since its last",
    'checkpoint is done again. To read and write the files takes minutes that are not in it, which is all that rounding alone takes.',
    '',
  );
  for (const [size, config] of Object.entries(models)) {
    lines.push(`### ${size}`, '', '| settings | GPU | machine | main memory | hours | dollars |');
    lines.push('| --- | --- | --- | ---: | ---: | ---: |');
    for (const [name, request] of Object.entries(settings)) {
      const { machines } = await estimateOf(config, request);
      for (const gpu of new Set(Object.values(machineTable).map((machine) => machine.gpu))) {
        const fitting = machines
          .filter((each) => each.fits && machineTable[each.name]?.gpu === gpu)
          .sort((a, b) => (a.dollars ?? 0) - (b.dollars ?? 0));
        const [best] = fitting;
        lines.push(
          best === undefined
            ? `| ${name} | ${gpu} | none is large enough | | | |`
            : `| ${name} | ${gpu} | ${best.name} | ${(best.hostBytes / 1e9).toFixed(0)} GB | ${(best.seconds / 3600).toFixed(2)} | ${dollars(best.dollars ?? 0)} |`,
        );
      }
    }
    lines.push('');
  }
  return format(lines.join('\n'), { parser: 'markdown', printWidth: 120 });
}

function resourcesOf(context: Record<string, unknown>, given: Record<string, unknown>): TemplateResource[] {
  // The image is not staged for this.
  const imageUri = `registry.example.com/cherryq@sha256:${'0'.repeat(64)}`;
  const own = Object.entries({ imageUri, ...given }).map(([key, value]) => [prefix + key, value]);
  const install = createInstall(new App({ context }), parseContext({ ...context, ...Object.fromEntries(own) }));
  return (Object.values(install) as Stack[]).flatMap(
    (stack) => Object.values(Template.fromStack(stack).toJSON().Resources) as TemplateResource[],
  );
}
