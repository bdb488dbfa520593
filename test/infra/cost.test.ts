import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { costPage } from '../../infra/cost-page.ts';
import { idleCosts } from '../../infra/cost.ts';
import { stackNames, synth } from '../support/synth.ts';

const read = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), 'utf8');

describe('infra/cost.md', () => {
  it('is what `npm run cost` writes', async () => {
    const { context } = JSON.parse(read('cdk.json')) as { context: Record<string, unknown> };
    expect(read('infra/cost.md')).toBe(await costPage(context));
  });

  it('an install with public addresses costs less than six dollars a month while idle', () => {
    const made = synth({ network: 'public' });
    const costs = idleCosts(stackNames.flatMap((name) => Object.values(made.resources(name))));
    expect(costs.reduce((sum, { dollars }) => sum + dollars, 0)).toBeLessThan(6);
  });
});
