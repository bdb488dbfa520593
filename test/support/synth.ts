/** An install as `npm run synth` makes it, in memory. */
import { App } from 'aws-cdk-lib';
import { Template } from 'aws-cdk-lib/assertions';
import { readFileSync } from 'node:fs';
import { parseContext, type InstallContext } from '../../infra/context.ts';
import { createInstall, type Install } from '../../infra/install.ts';

export const stackNames = ['storage', 'compute', 'api', 'events', 'observe'] as const;
export type StackName = (typeof stackNames)[number];

export interface Resource {
  readonly Type: string;
  readonly Properties?: Record<string, unknown>;
  readonly DeletionPolicy?: string;
}

export interface Synthesized {
  readonly app: App;
  readonly context: InstallContext;
  readonly install: Install;
  template(name: StackName): Template;
  resources(name: StackName): Record<string, Resource>;
}

const { context: cdkContext } = JSON.parse(readFileSync(new URL('../../cdk.json', import.meta.url), 'utf8')) as {
  context: Record<string, unknown>;
};

/** @param settings by key, without `cherryq:`; the image is not staged unless it says so */
export function synth(settings: Record<string, unknown> = {}): Synthesized {
  const imageUri = `123456789012.dkr.ecr.eu-central-1.amazonaws.com/cherryq@sha256:${'0'.repeat(64)}`;
  const given = { imageUri, ...settings };
  const own = Object.fromEntries(Object.entries(given).map(([key, value]) => [`cherryq:${key}`, value]));
  const app = new App({ context: { ...cdkContext, 'aws:cdk:disable-stack-trace': true } });
  const context = parseContext({ ...cdkContext, ...own });
  const install = createInstall(app, context);
  const template = (name: StackName): Template => Template.fromStack(install[name]);
  return {
    app,
    context,
    install,
    template,
    resources: (name) => template(name).toJSON().Resources as Record<string, Resource>,
  };
}
