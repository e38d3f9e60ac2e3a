package api

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// register puts all routes on mux, and describes them.
func (s *server) register(mux *http.ServeMux, version string) *huma.OpenAPI {
	h := humago.New(mux, humaConfig(cmp.Or(version, "unknown")))
	// What an error looks like is a matter of this one API: see fromHuma.
	h.OpenAPI().Components.Schemas.RegisterTypeAlias(reflect.TypeFor[huma.ErrorModel](), reflect.TypeFor[problem]())
	h.UseMiddleware(s.guard)

	s.itemRules = newItemRules(h.OpenAPI().Components.Schemas)
	huma.Register(h, inviteOperation(), handle(s, s.invite))
	huma.Register(h, batchOperation(h.OpenAPI().Components.Schemas), handle(s, s.inviteBatch))
	huma.Register(h, invitationOperation(), handle(s, s.getInvitation))
	huma.Register(h, acceptOperation(), handle(s, s.accept))
	huma.Register(h, declineOperation(), handle(s, s.decline))
	huma.Register(h, verifyOperation(), handle(s, s.verify))
	huma.Register(h, acceptInvitationOperation(), handle(s, s.acceptInvitation))
	huma.Register(h, declineInvitationOperation(), handle(s, s.declineInvitation))
	huma.Register(h, revokeOperation(), handle(s, s.revoke))
	huma.Register(h, resendOperation(), handle(s, s.resend))
	huma.Register(h, changeAddressOperation(), handle(s, s.changeAddress))
	huma.Register(h, invitationsOperation(), handle(s, s.listInvitations))
	huma.Register(h, enqueueOperation(), handle(s, s.enqueue))
	huma.Register(h, messagesOperation(), handle(s, s.listMessages))
	huma.Register(h, messageOperation(), handle(s, s.getMessage))
	huma.Register(h, cancelOperation(), handle(s, s.cancelMessage))
	huma.Register(h, releaseOperation(), handle(s, s.release))
	huma.Register(h, retryOperation(), handle(s, s.retry))
	huma.Register(h, attemptsOperation(), handle(s, s.listAttempts))
	huma.Register(h, markSentOperation(), handle(s, s.markSent))
	huma.Register(h, suppressionsOperation(), handle(s, s.listSuppressions))
	huma.Register(h, suppressOperation(), handle(s, s.suppress))
	huma.Register(h, unsuppressOperation(), handle(s, s.unsuppress))
	huma.Register(h, importOperation(), handle(s, s.importSuppressions))
	if s.templates != nil {
		huma.Register(h, templatesOperation(), handle(s, s.listTemplates))
		huma.Register(h, previewTemplateOperation(), handle(s, s.previewTemplate))
		huma.Register(h, previewMessageOperation(), handle(s, s.previewMessage))
	}
	huma.Register(h, bouncesOperation(), handle(s, s.reportBounces))
	huma.Register(h, providerOperation(), handle(s, s.reportBouncesOfProvider))
	huma.Register(h, eventsOperation(), handle(s, s.listEvents))
	huma.Register(h, createWebhookOperation(), handle(s, s.createWebhook))
	huma.Register(h, webhooksOperation(), handle(s, s.listWebhooks))
	huma.Register(h, webhookOperation(), handle(s, s.getWebhook))
	huma.Register(h, deleteWebhookOperation(), handle(s, s.deleteWebhook))
	huma.Register(h, rotateWebhookOperation(), handle(s, s.rotateWebhook))
	huma.Register(h, enableWebhookOperation(), handle(s, s.enableWebhook))
	huma.Register(h, replayWebhookOperation(), handle(s, s.replayWebhook))
	huma.Register(h, createKeyOperation(), handle(s, s.createKey))
	huma.Register(h, keysOperation(), handle(s, s.listKeys))
	huma.Register(h, keyOperation(), handle(s, s.getKey))
	huma.Register(h, revokeKeyOperation(), handle(s, s.revokeKey))
	huma.Register(h, healthOperation("livez", "Is the program alive?"), handle(s, s.live))
	huma.Register(h, healthOperation("readyz", "Would requests and messages get through now?", http.StatusServiceUnavailable), handle(s, s.isReady))
	registerDocs(mux)
	return h.OpenAPI()
}

// handle makes every error of a handler a problem.
func handle[I, O any](s *server, handler func(context.Context, *I) (*O, error)) func(context.Context, *I) (*O, error) {
	return func(ctx context.Context, in *I) (*O, error) {
		var out *O
		var err error
		if c, ok := ctx.Value(claimKey{}).(*claim); ok {
			out, err = once(ctx, s, c, in, handler)
		} else {
			out, err = handler(ctx, in)
		}
		if err == nil {
			return out, nil
		}
		return nil, s.problemOf(ctx, err)
	}
}

// problemOf is the problem to answer err with. It logs what is not the client's
// doing.
func (s *server) problemOf(ctx context.Context, err error) *problem {
	p := toProblem(err)
	if p.Status >= http.StatusInternalServerError && !errors.Is(err, p) {
		s.logger.LogAttrs(ctx, slog.LevelError, "http request failed",
			slog.Any("error", err), slog.String("request_id", requestID(ctx)))
	}
	return p
}

// humaConfig has none of huma's extras: its pages load from elsewhere, and its
// links to schemas are noise in every answer.
func humaConfig(version string) huma.Config {
	registry := huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)
	return huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title:       "Mailcrane",
				Version:     version,
				Description: "Invitations that are sent if and only if they are committed.",
				License:     &huma.License{Name: "Apache 2.0", Identifier: "Apache-2.0"},
			},
			Servers: []*huma.Server{{URL: "/", Description: "Wherever this document is from."}},
			Tags: []*huma.Tag{
				{Name: "Invitations", Description: "Ask people to join a group."},
				{Name: "Messages", Description: "What was sent, when, and what the relay said."},
				{Name: "Suppressions", Description: "Addresses that must not be written to."},
				{Name: "Bounces", Description: "News that comes after a mail was sent."},
				{Name: "Templates", Description: "What messages say."},
				{Name: "Events", Description: "What has happened, for programs that want to know."},
				{Name: "Webhooks", Description: "Programs elsewhere that are told what happens."},
				{Name: "Keys", Description: "Who may use this API."},
				{Name: "Health", Description: "For whoever watches the daemon."},
			},
			Components: &huma.Components{
				Schemas: registry,
				SecuritySchemes: map[string]*huma.SecurityScheme{"password": {
					Type:        "http",
					Scheme:      "basic",
					Description: "The same as a password, for providers that cannot do otherwise. The name does not matter.",
				}, "token": {
					Type:        "http",
					Scheme:      "bearer",
					Description: "A key, mc_live_… or mc_test_…, which sees one tenant and may do what its scopes say; or the value of MAILCRANE_API_TOKEN, which is the operator's. A daemon without that takes programs on its own machine for the operator.",
				}},
			},
			OnAddOperation: []huma.AddOpFunc{describeScope, describeBody, describeAnswers, describeReplay, describeExamples},
		},
		Formats:       map[string]huma.Format{"application/json": jsonFormat(), "json": jsonFormat()}, // "json": application/problem+json
		DefaultFormat: "application/json",
		Transformers:  []huma.Transformer{fromHuma(registry)},
	}
}
