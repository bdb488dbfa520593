/** cdk-nag's AwsSolutions pack over every kind of install. What it finds is mended, or acknowledged with a reason. */
import { Validations } from 'aws-cdk-lib';
import { AwsSolutionsChecks } from 'cdk-nag';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { wildcards } from '../../infra/permissions.ts';
import { installs } from './installs.ts';
import { synth, type Synthesized } from '../support/synth.ts';

interface Report {
  readonly pluginReports: readonly {
    readonly pluginName: string;
    readonly violations: readonly {
      readonly ruleName: string;
      readonly violatingConstructs: readonly { readonly constructPath: string }[];
    }[];
  }[];
}

function findings({ app }: Synthesized): { rule: string; path: string }[] {
  Validations.of(app).addPlugins(new AwsSolutionsChecks(app));
  try {
    app.synth();
  } catch (error) {
    if (!(error instanceof Error) || error.name !== 'ValidationFailed') throw error;
  }
  const path = join(app.outdir, 'validation-report.json');
  if (!existsSync(path)) throw new Error('cdk-nag has left no report');
  const { pluginReports } = JSON.parse(readFileSync(path, 'utf8')) as Report;
  const report = pluginReports.find(({ pluginName }) => pluginName === 'AwsSolutions');
  if (report === undefined) throw new Error('cdk-nag has not run');
  return report.violations.flatMap(({ ruleName, violatingConstructs }) =>
    violatingConstructs.map(({ constructPath }) => ({ rule: ruleName, path: constructPath })),
  );
}

it.each(Object.entries(installs))(
  '%s: nothing is found but the wildcards that have a written reason',
  (_, settings) => {
    const others = findings(synth(settings)).filter(({ rule }) => {
      const [, resource] = /^AwsSolutions-IAM5\[Resource::(.*)\]$/.exec(rule) ?? [];
      return resource === undefined || !wildcards.some(({ ending }) => ending.test(resource));
    });
    expect(others).toEqual([]);
  },
);
